#!lua
-- Decides about a batch of requests of one platform, in their order, and appends the accepted events. A request is one
-- event, or a group of several that are accepted together or not at all.
-- Without allow-oom on purpose: when Redis is full nothing of the batch runs (rule 1).
--
-- KEYS  1 incoming  2 limit  3 counters  [4 platforms, if ARGV 7 is given]  then n limits of event types
--       then one marker per event that has one
-- ARGV  1 period in us (0: no limit)  2 burst  3 marker's TTL in s  4 bound of the stream
--       5 how far ahead of now a provider's time counts, in ms  6 wire version  7 platform's name, or ''
--       8 the groups: 'first:size …', an event's number from 1 and how many they are; '': none
--       9 n, then n times: period in us, burst
--       then per event: 'marker limit m type', event_id, occurred_at|'', body, then m arguments: fields that only some
--       events have, and their values. marker: 0 it has none, 1 it has one, 2 an earlier event of this call has the
--       same; limit: its type's (from 1; 0: it has none of its own)
-- Reply one integer per request: 0 accepted, 1 duplicate, 2 overloaded, 3 refused by Redis, -n rate limited for n s
--
-- Per event (rule 24): a duplicate costs nothing; a stream at its bound costs nothing; then the platform's limit and that
-- of the event's type (GCRA), both checked before either is charged, whose states are written once, at the end, with
-- all their digits; only then XADD and, after it, the marker: scripts are not rolled back, so a marker written first
-- could outlive a failing XADD and swallow the provider's retry. A refusal stays one for
-- the rest of the batch (time stands still, the stream and the state only grow), so the twin of a refused event is
-- refused too. No call raises: each request has its own outcome, whatever Redis says to another one (rule 26).
--
-- Of a group, what was seen before (or stands twice in it) costs nothing and is left out; a group of nothing else is a
-- duplicate. The rest must fit as a whole: into the stream, the platform's limit and those of its types. A group that is
-- larger than a burst could never do that; it is accepted when the limit is at rest, and charged in full, so that the
-- limit holds on average: the state then lies further ahead than a burst, and says how far, lest it be taken for the
-- work of a clock that was set back (rule 23).
--
-- Ids are made here because the entry holds its own first id as `origin`: <ms>-<us within the ms * 1000 + position>.
-- Where the stream is ahead (Redis's clock was set back), they go on from its last id (rule 23).

local EXACT = 9007199254740991 -- integers up to here are exact
local format, pcall_, min, max, ceil = string.format, redis.pcall, math.min, math.max, math.ceil

local incoming, limit, counters = KEYS[1], KEYS[2], KEYS[3]
local ttl, bound = ARGV[3], tonumber(ARGV[4])
local future, version, platform, types = tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[9])
local groups = {}
for first, size in string.gmatch(ARGV[8], '(%d+):(%d+)') do
  groups[tonumber(first)] = tonumber(size)
end

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
  local at = i == 1 and 1 or 6 + 2 * i
  periods[i] = tonumber(ARGV[at])
  reaches[i] = tonumber(ARGV[at + 1]) * periods[i]
  local tat = 0
  if periods[i] > 0 then
    local state = pcall_('GET', limits[i])
    local instant, ahead
    if type(state) == 'string' then
      instant, ahead = string.match(state, '^(%d+) ?(%d*)$')
    end
    tat = tonumber(instant) or 0
    local furthest = now_us + max(reaches[i], tonumber(ahead) or 0)
    if tat > furthest then
      -- The clock was set back (rule 23). This is written even if nothing is charged: a limit that is found reached, and
      -- is cut anew each time, would stay reached until the clock is where it was.
      tat = furthest
      charged[i] = true
    end
  end
  tats[i] = tat
end

-- How long until n more fit into limit i, in us; none: they do now. More than a burst fit when it is at rest.
local function excess(i, n)
  if periods[i] == 0 then
    return 0
  end
  return max(tats[i], now_us) + min(n * periods[i], reaches[i]) - now_us - reaches[i]
end

local function charge(i, n)
  if periods[i] > 0 then
    tats[i] = max(tats[i], now_us) + n * periods[i]
    charged[i] = true
  end
end

local function limited_for(us)
  local seconds = ceil(us / 1000000)
  return -(seconds > 1 and seconds or 1)
end

local ms, seq = now, (now_us % 1000) * 1000
local ms_of_id = format('%.0f-', ms)

-- What the first argument of an event says. Mostly all of a call say the same, and it is taken apart once.
local sorts = {}
local function sort_of(at)
  local text = ARGV[at]
  local sort = sorts[text]
  if not sort then
    local marker, own, more, event_type = string.match(text, '^(%d) (%d+) (%d+) (.*)$')
    -- The limit is a position among all limits, of which the first is the platform's.
    sort = { marker = tonumber(marker), limit = own + 1, more = tonumber(more), event_type = event_type }
    sorts[text] = sort
  end
  return sort
end

local function add(at, sort, occurred_at)
  local id = ms_of_id .. format('%.0f', seq)
  return pcall_('XADD', incoming, id, 'v', version, 'event_id', ARGV[at + 1], 'event_type', sort.event_type,
    'occurred_at', occurred_at, 'received_at', received_at, 'attempt', '1', 'origin', id, 'body', ARGV[at + 3],
    unpack(ARGV, at + 4, at + 3 + sort.more))
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
      ms_of_id = format('%.0f-', ms)
      return true
    end
  end
  return false
end

-- The new entry's id; false: Redis refused it.
local function append(at, sort)
  local occurred_at = ARGV[at + 2]
  local given = tonumber(occurred_at)
  if not given or given > now + future then
    occurred_at = received_at
  end
  local reply = add(at, sort, occurred_at)
  if type(reply) == 'table' and catch_up() then
    reply = add(at, sort, occurred_at)
  end
  if type(reply) == 'table' then
    return false
  end
  seq = seq + 1
  return reply
end

local accepted, duplicates, limited, overloaded = 0, 0, 0, 0

-- Mostly none of the markers is there, which one look at all of them says.
local all_new = next_key <= #KEYS and pcall_('EXISTS', unpack(KEYS, next_key)) == 0

-- The event's marker, if it has one, and whether it is there: 1, 0, or what Redis says instead.
local function marked(sort)
  if sort.marker == 0 then
    return nil, 0
  end
  local marker = KEYS[next_key]
  next_key = next_key + 1
  if all_new and sort.marker == 1 then
    return marker, 0
  end
  return marker, pcall_('EXISTS', marker)
end

local function remember(marker)
  if marker then
    pcall_('SET', marker, '1', 'EX', ttl)
  end
end

local function one(at, sort)
  local own, marker, seen = sort.limit, marked(sort)
  if seen == 1 then
    duplicates = duplicates + 1
    return 1
  elseif seen ~= 0 then
    return 3
  elseif length >= bound then
    overloaded = overloaded + 1
    return 2
  end
  local wait = excess(1, 1)
  if own > 1 then
    wait = max(wait, excess(own, 1))
  end
  if wait > 0 then
    limited = limited + 1
    return limited_for(wait)
  elseif not append(at, sort) then
    return 3
  end
  remember(marker)
  accepted = accepted + 1
  length = length + 1
  charge(1, 1)
  if own > 1 then
    charge(own, 1)
  end
  return 0
end

-- Appends all, or none.
local function append_all(events)
  local ids = {}
  for i, at in ipairs(events) do
    local id = append(at, sort_of(at))
    if not id then
      for _, added in ipairs(ids) do
        pcall_('XDEL', incoming, added)
      end
      return false
    end
    ids[i] = id
  end
  return true
end

local function together(events)
  local new, markers, known, needs, broken = {}, {}, {}, {}, false
  for _, event in ipairs(events) do
    local sort = sort_of(event)
    local marker, seen = marked(sort)
    if type(seen) == 'table' then
      broken = true
    elseif seen == 0 and not (marker and known[marker]) then
      new[#new + 1] = event
      needs[sort.limit] = (needs[sort.limit] or 0) + 1
      if marker then
        markers[#markers + 1] = marker
        known[marker] = true
      end
    end
  end
  if broken then
    return 3
  elseif #new == 0 then
    duplicates = duplicates + #events
    return 1
  elseif length + #new > bound then
    overloaded = overloaded + #new
    return 2
  end
  needs[1] = #new -- whatever has a limit of its own is inside the platform's
  local wait = 0
  for i, n in pairs(needs) do
    wait = max(wait, excess(i, n))
  end
  if wait > 0 then
    limited = limited + #new
    return limited_for(wait)
  elseif not append_all(new) then
    return 3
  end
  for _, marker in ipairs(markers) do
    remember(marker)
  end
  accepted = accepted + #new
  duplicates = duplicates + #events - #new
  length = length + #new
  for i, n in pairs(needs) do
    charge(i, n)
  end
  return 0
end

local outcomes = {}
local at, number = 10 + 2 * types, 1

-- Where the next event's arguments begin, and what sort it is.
local function next_event()
  local here, sort = at, sort_of(at)
  at, number = at + 4 + sort.more, number + 1
  return here, sort
end

while at <= #ARGV do
  local size = groups[number]
  if size then
    local events = {}
    for i = 1, size do
      events[i] = next_event()
    end
    outcomes[#outcomes + 1] = together(events)
  else
    outcomes[#outcomes + 1] = one(next_event())
  end
end

for i = 1, types + 1 do
  if charged[i] then
    -- Gone a second after the limit would be back at rest: absent and at rest are the same.
    local ahead = tats[i] - now_us
    local ttl_ms = ceil(ahead / 1000) + 1000
    local state = format('%.0f', tats[i])
    if ahead > reaches[i] then
      state = format('%s %.0f', state, ahead)
    end
    pcall_('SET', limits[i], state, 'PX', format('%.0f', ttl_ms))
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
