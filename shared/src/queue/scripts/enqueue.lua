#!lua
-- Decides about a batch of events of one platform, in their order, and appends the accepted ones.
-- Without allow-oom on purpose: when Redis is full nothing of the batch runs (rule 1).
--
-- KEYS  1 incoming  2 limit  3 counters  [4 platforms, if ARGV 7 is given]  then n limits of event types
--       then one marker per event that has one
-- ARGV  1 period in us (0: no limit)  2 burst  3 marker's TTL in s  4 bound of the stream
--       5 how far ahead of now a provider's time counts, in ms  6 wire version  7 platform's name, or ''
--       8 n, then n times: period in us, burst
--       then per event: has a marker (0|1), event_id, event_type, occurred_at|'', body, delivery_id|'', traceparent|'',
--       its type's limit (from 1; 0: it has none of its own)
-- Reply one integer per event: 0 accepted, 1 duplicate, 2 overloaded, 3 refused by Redis, -n rate limited for n s
--
-- Per event (rule 24): a duplicate costs nothing; a stream at its bound costs nothing; then the platform's limit and that
-- of the event's type (GCRA), both checked before either is charged, whose states are written once, at the end, with
-- all their digits; only then XADD and, after it, the marker: scripts are not rolled back, so a marker written first
-- could outlive a failing XADD and swallow the provider's retry. A refusal stays one for
-- the rest of the batch (time stands still, the stream and the state only grow), so the twin of a refused event is
-- refused too. No call raises: each event has its own outcome, whatever Redis says to another one (rule 26).
--
-- Ids are made here because the entry holds its own first id as `origin`: <ms>-<us within the ms * 1000 + position>.
-- Where the stream is ahead (Redis's clock was set back), they go on from its last id (rule 23).

local EXACT = 9007199254740991 -- integers up to here are exact
local format, pcall_ = string.format, redis.pcall

local incoming, limit, counters = KEYS[1], KEYS[2], KEYS[3]
local ttl, bound = ARGV[3], tonumber(ARGV[4])
local future, version, platform, types = tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8])

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
local received_at = format('%.0f', now)

local length = pcall_('XLEN', incoming)
if type(length) == 'table' then
  length = 0 -- no stream: XADD below says so for each event
end
local was_empty = length == 0

-- The platform's limit is the first; event types' follow. A period of 0 is no limit.
local limits, periods, reaches, tats, charged = { limit }, {}, {}, {}, {}
local next_key = platform == '' and 4 or 5
for i = 1, types do
  limits[i + 1] = KEYS[next_key]
  next_key = next_key + 1
end
for i = 1, types + 1 do
  local at = i == 1 and 1 or 5 + 2 * i
  periods[i] = tonumber(ARGV[at])
  reaches[i] = tonumber(ARGV[at + 1]) * periods[i]
  local tat = 0
  if periods[i] > 0 then
    tat = tonumber(pcall_('GET', limits[i])) or 0
    if not (tat >= 0) then
      tat = 0
    end
    if tat > now_us + reaches[i] then
      tat = now_us + reaches[i] -- the clock was set back (rule 23)
    end
  end
  tats[i] = tat
end

-- How long until one more fits into limit i, in us; none: it does now.
local function excess(i)
  if periods[i] == 0 then
    return 0
  end
  return math.max(tats[i], now_us) + periods[i] - now_us - reaches[i]
end

local function charge(i)
  if periods[i] > 0 then
    tats[i] = math.max(tats[i], now_us) + periods[i]
    charged[i] = true
  end
end

local ms, seq = now, (now_us % 1000) * 1000

local function add(id, at, occurred_at)
  local delivery_id, traceparent = ARGV[at + 5], ARGV[at + 6]
  local event_id, event_type, body = ARGV[at + 1], ARGV[at + 2], ARGV[at + 4]
  if delivery_id == '' and traceparent == '' then
    return pcall_('XADD', incoming, id, 'v', version, 'event_id', event_id, 'event_type', event_type, 'occurred_at',
      occurred_at, 'received_at', received_at, 'attempt', '1', 'origin', id, 'body', body)
  elseif traceparent == '' then
    return pcall_('XADD', incoming, id, 'v', version, 'event_id', event_id, 'event_type', event_type, 'occurred_at',
      occurred_at, 'received_at', received_at, 'attempt', '1', 'origin', id, 'body', body,
      'delivery_id', delivery_id)
  elseif delivery_id == '' then
    return pcall_('XADD', incoming, id, 'v', version, 'event_id', event_id, 'event_type', event_type, 'occurred_at',
      occurred_at, 'received_at', received_at, 'attempt', '1', 'origin', id, 'body', body,
      'traceparent', traceparent)
  end
  return pcall_('XADD', incoming, id, 'v', version, 'event_id', event_id, 'event_type', event_type, 'occurred_at',
    occurred_at, 'received_at', received_at, 'attempt', '1', 'origin', id, 'body', body,
    'delivery_id', delivery_id, 'traceparent', traceparent)
end

-- Moves ms and seq past the stream's last id; false: that was not why XADD failed.
local function catch_up()
  local info = pcall_('XINFO', 'STREAM', incoming)
  if info.err then
    return false
  end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local last_ms, last_seq = string.match(info[i + 1], '^(%d+)-(%d+)$')
      last_ms, last_seq = tonumber(last_ms), tonumber(last_seq)
      if last_ms < ms or (last_ms == ms and last_seq < seq) or last_ms >= EXACT then
        return false
      end
      if last_seq >= EXACT then
        ms, seq = last_ms + 1, 0
      else
        ms, seq = last_ms, last_seq + 1
      end
      return true
    end
  end
  return false
end

local function append(at)
  local occurred_at = ARGV[at + 3]
  local given = tonumber(occurred_at)
  if not given or given > now + future then
    occurred_at = received_at
  end
  local reply = add(format('%.0f-%.0f', ms, seq), at, occurred_at)
  if type(reply) == 'table' and catch_up() then
    reply = add(format('%.0f-%.0f', ms, seq), at, occurred_at)
  end
  if type(reply) == 'table' then
    return false
  end
  seq = seq + 1
  return true
end

local outcomes = {}
local accepted, duplicates, limited, overloaded = 0, 0, 0, 0
local position = 0
for at = 9 + 2 * types, #ARGV, 8 do
  position = position + 1
  local marker
  local seen = 0
  if ARGV[at] == '1' then
    marker = KEYS[next_key]
    next_key = next_key + 1
    seen = pcall_('EXISTS', marker)
  end
  local own = tonumber(ARGV[at + 7]) + 1 -- 1: the platform's alone
  local wait = math.max(excess(1), excess(own))
  if seen == 1 then
    outcomes[position] = 1
    duplicates = duplicates + 1
  elseif seen ~= 0 then
    outcomes[position] = 3
  elseif length >= bound then
    outcomes[position] = 2
    overloaded = overloaded + 1
  elseif wait > 0 then
    local seconds = math.ceil(wait / 1000000)
    outcomes[position] = -(seconds > 1 and seconds or 1)
    limited = limited + 1
  elseif append(at) then
    if marker then
      pcall_('SET', marker, '1', 'EX', ttl)
    end
    outcomes[position] = 0
    accepted = accepted + 1
    length = length + 1
    charge(1)
    if own > 1 then
      charge(own)
    end
  else
    outcomes[position] = 3
  end
end

for i = 1, types + 1 do
  if charged[i] then
    -- Gone a second after the limit would be back at rest: absent and at rest are the same.
    local ttl_ms = math.ceil((tats[i] - now_us) / 1000) + 1000
    pcall_('SET', limits[i], format('%.0f', tats[i]), 'PX', format('%.0f', ttl_ms))
  end
end
if was_empty and accepted > 0 and platform ~= '' then
  pcall_('SADD', KEYS[4], platform)
end
local function count(field, number)
  if number > 0 then
    pcall_('HINCRBY', counters, field, number)
  end
end
count('accepted', accepted)
count('duplicate', duplicates)
count('rate_limited', limited)
count('overloaded', overloaded)
return outcomes
