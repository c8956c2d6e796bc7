#!lua
-- Decides about a batch of requests in order of arrival, and appends the accepted events.
--
-- A request is one event, or a group of several that are accepted together or not at all. A section
-- is the consecutive requests of one platform. On a single server a call holds sections of several
-- platforms, so that they share its cost. On a cluster each platform has its own slot, so a call
-- holds one section.
--
-- This script has no allow-oom: when Redis is full, nothing of the batch runs
-- (moves-run-when-full).
--
-- A section may hold verified but unusable events. They become dead letters under the same rules,
-- with the bound of the dead letters.
--
-- KEYS  [1 platforms, if ARGV 1 is 1]
--       then per section: its limit, and the limits of its event types
--       then per section: incoming, counters (for dead letters: dlq, counters, exceptions)
--       then one marker per event that has one
-- ARGV  1 1 if KEYS 1 is the set of platforms, else 0
--       2 number of all limits
--       3 'sections [dead]': number of sections, and of those that hold dead letters
--       4 wire version
--       5 time in ms by which a provider's time may lie ahead of now
--       6 latest provider's time in the call, or ''
--       7 one byte per event: index of its kind, from 1
--       8 n, then n kinds: 'marker limit m type'
--         marker: 0 none, 1 present, 2 the same as that of an earlier event of this call
--         limit: index of its type's limit in the section (1: the type has none)
--       then per section: the platform's name
--         'TTL bound period burst [period burst …]': marker's TTL in s, bound of the stream,
--           and per limit the period in us (0: no limit) and the burst
--         'size [first:size …] [dead]': number of events; per group its first event (from 1)
--           and size; whether they are dead letters
--         then per event: event_id, occurred_at (0: unreadable) or '', body,
--           then m arguments: names and values of further fields
-- Reply one integer per request:
--       0 accepted, 1 duplicate, 2 overloaded, 3 refused by Redis, -n rate limited for n s
--
-- Per event, in this order (decision-order): a duplicate and a stream at its bound cost nothing.
-- Then the limits of the platform and of the event's type are checked (GCRA), both before either is
-- charged. Only then the entry is appended and its marker is set. The marker comes last, because
-- Redis does not roll a script back: a marker without an entry would swallow the provider's retry
-- (marker-follows-entry).
--
-- The states of the limits are written once, at the end of the section, with all their digits.
--
-- A refusal holds for the rest of the section, because time stands still and the stream and the
-- limits only grow. The duplicate of a refused event is therefore refused too.
--
-- No call raises an error: each request has its own outcome (calls-are-bounded), and an error of
-- one platform's keys affects no other platform.
--
-- The known events of a group cost nothing and are left out; a group without new events is a
-- duplicate. The new ones must fit as a whole: into the stream and into all their limits. A group
-- larger than a burst is accepted when the limit is at rest, and charged in full, so that the
-- average holds. The state then lies more than a burst ahead. It also stores by how much, so that
-- it is not mistaken for the state of a clock that was set back (clock-steps-are-harmless).
--
-- Ids are generated here, because the entry holds its own id as `origin`. They are <ms>-<us within
-- the ms * 1000 + position>. All ids of a call differ, across all its streams, because ids decide
-- between equal times (order-key-never-changes). If the stream is ahead because Redis's clock was
-- set back, ids continue after its last id.

local EXACT = 9007199254740991 -- integers up to this are exact in a double
local ARGV, KEYS = ARGV, KEYS -- locals are faster than globals
local format, match, gmatch = string.format, string.match, string.gmatch
local pcall_, ceil = redis.pcall, math.ceil
-- '%d' is faster, but formats a C long, which is too small where it has 32 bits.
local WHOLE = format('%d', 4294967296) == '4294967296' and '%d' or '%.0f'

local indexed, limit_count, section_count = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
local dead_count = 0
if not section_count then
  section_count, dead_count = match(ARGV[3], '^(%d+) (%d+)$')
  section_count, dead_count = tonumber(section_count), tonumber(dead_count)
end
local version, future = ARGV[4], tonumber(ARGV[5])
local kind_of = { string.byte(ARGV[7], 1, -1) }
local at = 9 + tonumber(ARGV[8]) -- index of the next argument
local kinds, has_duplicates = {}, false
for i = 9, at - 1 do
  local marker, limit, more, event_type = match(ARGV[i], '^(%d) (%d+) (%d+) (.*)$')
  kinds[i - 8] =
    { marker = marker, limit = tonumber(limit), more = tonumber(more), event_type = event_type }
  has_duplicates = has_duplicates or marker == '2'
end

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
local received_at = format(WHOLE, now)
-- Usually no time is too far ahead, so only the latest one is compared.
local some_ahead = ARGV[6] ~= '' and tonumber(ARGV[6]) > now + future

local next_limit = indexed and 2 or 1
local next_stream = next_limit + limit_count
local next_marker = next_stream + 2 * section_count + dead_count

local states = pcall_('MGET', unpack(KEYS, next_limit, next_stream - 1))
if states.err then
  for i = 1, limit_count do
    states[i] = pcall_('GET', KEYS[next_limit + i - 1])
  end
end
local written = {} -- states that this call has written, by key
local first_limit = next_limit

-- Usually no marker exists, so one EXISTS asks for all of them.
local all_new = next_marker <= #KEYS and pcall_('EXISTS', unpack(KEYS, next_marker)) == 0

-- State of the current section.
local incoming, counters, policy, size, groups
local exceptions -- of dead letters only
local length, limits, tats, charged
local accepted, duplicates, limited, overloaded
local event = 0 -- index of the last event read, in the whole call
local ms, seq, id_format

local outcomes, decided = {}, 0
local function answer(outcome)
  decided = decided + 1
  outcomes[decided] = outcome
end

local policies = {}
local function policy_of(text)
  local known = policies[text]
  if not known then
    local numbers = {}
    for number in gmatch(text, '%d+') do
      numbers[#numbers + 1] = tonumber(number)
    end
    local periods, reaches = {}, {}
    for i = 3, #numbers, 2 do
      periods[#periods + 1] = numbers[i]
      reaches[#reaches + 1] = numbers[i] * numbers[i + 1]
    end
    known = { expires = format(WHOLE, now + numbers[1] * 1000), bound = numbers[2],
      periods = periods, reaches = reaches }
    policies[text] = known
  end
  return known
end

-- Loads limit i: its theoretical arrival time, at the earliest now.
local function load_limit(i)
  local key = KEYS[next_limit]
  local state = written[key] or states[next_limit - first_limit + 1]
  limits[i] = key
  next_limit = next_limit + 1
  if policy.periods[i] == 0 then
    tats[i] = now_us -- ignores the state of a limit that no longer applies
    return
  end
  local instant, ahead
  if type(state) == 'string' then
    instant, ahead = match(state, '^(%d+) ?(%d*)$')
  end
  local tat = tonumber(instant) or 0
  local furthest = now_us + math.max(policy.reaches[i], tonumber(ahead) or 0)
  if tat > furthest then
    -- The clock was set back. The reduced state is written even if nothing is charged. Otherwise a
    -- limit that is reached would be cut on every call and stay reached until the clock has caught
    -- up.
    tat = furthest
    charged[i] = true
  end
  tats[i] = tat > now_us and tat or now_us
end

-- Returns the time in us until n more events fit into limit i; 0 or less: now. A limit at rest
-- takes more than its burst.
local function excess(i, n)
  local reach, more = policy.reaches[i], n * policy.periods[i]
  return tats[i] + (more < reach and more or reach) - now_us - reach
end

local function charge(i, n)
  local period = policy.periods[i]
  if period > 0 then
    tats[i] = tats[i] + n * period
    charged[i] = true
  end
end

local function limited_for(us)
  local seconds = ceil(us / 1000000)
  return -(seconds > 1 and seconds or 1)
end

-- Moves ms and seq past the stream's last id. Returns false if that is not why XADD failed.
local function catch_up()
  local info = pcall_('XINFO', 'STREAM', incoming)
  if info.err then
    return false
  end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local last_ms, last_seq = match(info[i + 1], '^(%d+)-(%d+)$')
      last_ms, last_seq = tonumber(last_ms), tonumber(last_seq)
      if last_ms < ms or (last_ms == ms and last_seq < seq) or last_ms >= EXACT then
        return false
      end
      if last_seq >= EXACT then
        ms, seq = last_ms + 1, 0
      else
        ms, seq = last_ms, last_seq + 1
      end
      id_format = format(WHOLE, ms) .. '-' .. WHOLE
      return true
    end
  end
  return false
end

-- Adds the event as a dead letter.
local function append_dead_letter(id, occurred_at, first, kind)
  local out = { 'v', version, 'event_id', ARGV[first] }
  if kind.event_type ~= '' then
    out[#out + 1] = 'event_type'
    out[#out + 1] = kind.event_type
  end
  for _, value in ipairs({ 'occurred_at', occurred_at, 'received_at', received_at, 'attempt', '1',
    'origin', id, 'body', ARGV[first + 2], 'first_failed_at', received_at,
    'failed_at', received_at }) do
    out[#out + 1] = value
  end
  for i = first + 3, first + 2 + kind.more do
    out[#out + 1] = ARGV[i]
  end
  local reply = pcall_('XADD', incoming, id, unpack(out))
  if reply == id then
    pcall_('HSET', exceptions, ARGV[first], 'dead:' .. id)
  end
  return reply
end

-- Appends the event. Returns the id of the entry, or false if Redis refused it.
local function append(first, kind)
  local occurred_at = ARGV[first + 1]
  if occurred_at == '' or (some_ahead and tonumber(occurred_at) > now + future) then
    occurred_at = received_at
  end
  repeat
    local id = format(id_format, seq)
    local reply
    if exceptions then
      reply = append_dead_letter(id, occurred_at, first, kind)
    else
      reply = pcall_('XADD', incoming, id, 'v', version, 'event_id', ARGV[first],
        'event_type', kind.event_type, 'occurred_at', occurred_at, 'received_at', received_at,
        'attempt', '1', 'origin', id, 'body', ARGV[first + 2],
        unpack(ARGV, first + 3, first + 2 + kind.more))
    end
    if reply == id then
      seq = seq + 1
      return id
    end
  until not catch_up()
  return false
end

-- Appends the event and sets its marker. Returns whether that succeeded.
local function accept(first, kind, marker)
  if not append(first, kind) then
    return false
  end
  if marker then
    pcall_('SET', marker, '1', 'PXAT', policy.expires)
  end
  return true
end

-- Returns the event's marker, or nil, and whether the marker exists: 1, 0, or an error of Redis.
local function next_marker_state(kind)
  if kind.marker == '0' then
    return nil, 0
  end
  local marker = KEYS[next_marker]
  next_marker = next_marker + 1
  if all_new and kind.marker == '1' then
    return marker, 0
  end
  return marker, pcall_('EXISTS', marker)
end

local function decide_event(first, kind)
  local own, marker, seen = kind.limit, next_marker_state(kind)
  if seen == 1 then
    duplicates = duplicates + 1
    return 1
  elseif seen ~= 0 then
    return 3
  elseif length >= policy.bound then
    overloaded = overloaded + 1
    return 2
  end
  local wait = excess(1, 1)
  if own > 1 then
    wait = math.max(wait, excess(own, 1))
  end
  if wait > 0 then
    limited = limited + 1
    return limited_for(wait)
  elseif not accept(first, kind, marker) then
    return 3
  end
  accepted = accepted + 1
  length = length + 1
  charge(1, 1)
  if own > 1 then
    charge(own, 1)
  end
  return 0
end

-- Appends all events or none.
local function append_all(events)
  local ids = {}
  for i, new in ipairs(events) do
    local id = append(new.first, new.kind)
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

local function decide_group(events)
  local new, markers, known, needs, broken = {}, {}, {}, {}, false
  for _, given in ipairs(events) do
    local marker, seen = next_marker_state(given.kind)
    if type(seen) == 'table' then
      broken = true
    elseif seen == 0 and not (marker and known[marker]) then
      new[#new + 1] = given
      needs[given.kind.limit] = (needs[given.kind.limit] or 0) + 1
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
  elseif length + #new > policy.bound then
    overloaded = overloaded + #new
    return 2
  end
  needs[1] = #new -- the limits of types are inside the platform's
  local wait = 0
  for i, n in pairs(needs) do
    wait = math.max(wait, excess(i, n))
  end
  if wait > 0 then
    limited = limited + #new
    return limited_for(wait)
  elseif not append_all(new) then
    return 3
  end
  for _, marker in ipairs(markers) do
    pcall_('SET', marker, '1', 'PXAT', policy.expires)
  end
  accepted = accepted + #new
  duplicates = duplicates + #events - #new
  length = length + #new
  for i, n in pairs(needs) do
    charge(i, n)
  end
  return 0
end

-- Returns the index of the next event's first argument, and the event's kind.
local function next_event()
  local first = at
  event = event + 1
  local kind = kinds[kind_of[event]]
  at = at + 3 + kind.more
  return first, kind
end

-- Returns whether n single events can all be accepted, which is the usual case.
local function all_fit(n)
  return all_new and not has_duplicates and not groups and #limits == 1
    and length + n <= policy.bound
    and tats[1] + n * policy.periods[1] - now_us <= policy.reaches[1]
end

-- Appends the next n events without deciding about each. Requires all_fit(n).
local function accept_all(n)
  for _ = 1, n do
    local first, kind = next_event()
    local marker
    if kind.marker == '1' then
      marker = KEYS[next_marker]
      next_marker = next_marker + 1
    end
    if accept(first, kind, marker) then
      accepted = accepted + 1
      answer(0)
    else
      answer(3)
    end
  end
  length = length + accepted
  if accepted > 0 then
    charge(1, accepted)
  end
end

local function save_limit(i)
  -- The key expires a second after the limit is at rest: absent and at rest are the same.
  local ahead = tats[i] - now_us
  local state = format(WHOLE, tats[i])
  if ahead > policy.reaches[i] then
    state = state .. ' ' .. format(WHOLE, ahead)
  end
  pcall_('SET', limits[i], state, 'PXAT', format(WHOLE, now + ceil(ahead / 1000) + 1000))
  written[limits[i]] = state
end

local function count(field, number)
  if number > 0 then
    pcall_('HINCRBY', counters, field, format(WHOLE, number))
  end
end

local new_platforms = {}
for _ = 1, section_count do
  local platform, shape = ARGV[at], ARGV[at + 2]
  policy = policy_of(ARGV[at + 1])
  size, groups, exceptions = tonumber(shape), nil, nil
  local dead = not size and string.find(shape, ' dead', 1, true)
  if not size then
    groups = {}
    size = tonumber(match(shape, '^%d+'))
    for first, events in gmatch(shape, '(%d+):(%d+)') do
      groups[tonumber(first)] = tonumber(events)
    end
  end
  at = at + 3
  incoming, counters = KEYS[next_stream], KEYS[next_stream + 1]
  next_stream = next_stream + 2
  if dead then
    exceptions = KEYS[next_stream]
    next_stream = next_stream + 1
  end
  length = pcall_('XLEN', incoming)
  if type(length) == 'table' then
    length = 0 -- not a stream: XADD fails for each event
  end
  local was_empty = length == 0
  limits, tats, charged = {}, {}, {}
  for i = 1, #policy.periods do
    load_limit(i)
  end
  accepted, duplicates, limited, overloaded = 0, 0, 0, 0
  ms, seq = now, (now_us % 1000) * 1000 + event
  id_format = received_at .. '-' .. WHOLE

  local before = event
  if all_fit(size) then
    accept_all(size)
  end
  while event - before < size do
    local events = groups and groups[event - before + 1]
    if events then
      local group = {}
      for i = 1, events do
        local first, kind = next_event()
        group[i] = { first = first, kind = kind }
      end
      answer(decide_group(group))
    else
      answer(decide_event(next_event()))
    end
  end

  for i = 1, #limits do
    if charged[i] then
      save_limit(i)
    end
  end
  if was_empty and accepted > 0 then
    new_platforms[#new_platforms + 1] = platform
  end
  count('accepted', accepted)
  if dead then
    count('dead_lettered', accepted)
  end
  count('duplicate', duplicates)
  count('rate_limited', limited)
  count('overloaded', overloaded)
end
if indexed and #new_platforms > 0 then
  pcall_('SADD', KEYS[1], unpack(new_platforms))
end
return outcomes
