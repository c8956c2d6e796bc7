#!lua
-- Decides about a batch of requests, in their order, and appends the accepted events. A request is one event, or a group
-- of several that are accepted together or not at all. What stands one after the other for one platform is a section. On
-- a single server a call holds sections of several platforms, so that they share what a call costs; on a cluster, where
-- each platform has a slot of its own, one (rule 12).
-- Without allow-oom on purpose: when Redis is full nothing of the batch runs (rule 1).
--
-- A section may hold verified requests that are no usable events. They become dead letters under
-- the same rules: the bound of the section is that of the dead letters.
--
-- KEYS  [1 platforms, if ARGV 1 says so]  then per section its limit and those of its event types
--       then per section incoming, counters (of dead letters: dlq, counters, exceptions)
--       then one marker per event that has one
-- ARGV  1 whether the platforms are there: 1 or 0  2 how many limits there are in all
--       3 'sections [dead]': how many sections, and how many of them hold dead letters
--       4 wire version  5 how far ahead of now a provider's time counts, in ms  6 the latest of the times given, or ''
--       7 a byte per event: which of the sorts it is (from 1)
--       8 n, then n sorts: 'marker limit m type'. marker: 0 the event has none, 1 it has one, 2 an earlier event of this
--         call has the same; limit: which of its section's limits is its type's (1: it has none of its own)
--       then per section: platform's name
--         'TTL bound period burst [period burst …]': the marker's TTL in s, the bound of the stream, and per limit how
--         many us apart (0: no limit) and how many at once
--         'size [first:size …] [dead]': how many events, and of each group which of them (from 1)
--         is its first and how many it is, and whether they are dead letters
--         then per event: event_id, occurred_at (0: unreadable)|'', body, then m arguments: fields
--         that only some events have, and their values
-- Reply one integer per request: 0 accepted, 1 duplicate, 2 overloaded, 3 refused by Redis, -n rate limited for n s
--
-- Per event (rule 24): a duplicate costs nothing; a stream at its bound costs nothing; then the platform's limit and that
-- of the event's type (GCRA), both checked before either is charged, whose states are written once, at the end of the
-- section, with all their digits; only then XADD and, after it, the marker: scripts are not rolled back, so a marker
-- written first could outlive a failing XADD and swallow the provider's retry. A refusal stays one for
-- the rest of the section (time stands still, the stream and the state only grow), so the twin of a refused event is
-- refused too. No call raises: each request has its own outcome, whatever Redis says to another one (rule 26), and
-- each platform its own stream, limits and counters, whatever is wrong with another one's.
--
-- Of a group, what was seen before (or stands twice in it) costs nothing and is left out; a group of nothing else is a
-- duplicate. The rest must fit as a whole: into the stream, the platform's limit and those of its types. A group that is
-- larger than a burst could never do that; it is accepted when the limit is at rest, and charged in full, so that the
-- limit holds on average: the state then lies further ahead than a burst, and says how far, lest it be taken for the
-- work of a clock that was set back (rule 23).
--
-- Ids are made here because the entry holds its own first id as `origin`: <ms>-<us within the ms * 1000 + position>. No
-- two events of a call have the same, whatever their streams, since it decides between equal times (rule 13).
-- Where the stream is ahead (Redis's clock was set back), they go on from its last id (rule 23).

local EXACT = 9007199254740991 -- integers up to here are exact
local ARGV, KEYS = ARGV, KEYS -- globals take longer
local format, match, gmatch, pcall_, ceil = string.format, string.match, string.gmatch, redis.pcall, math.ceil
-- The quicker one takes what a C long holds, which is too little where that has 32 bits.
local WHOLE = format('%d', 4294967296) == '4294967296' and '%d' or '%.0f'

local indexed, limit_count, section_count = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
local dead_count = 0
if not section_count then
  section_count, dead_count = match(ARGV[3], '^(%d+) (%d+)$')
  section_count, dead_count = tonumber(section_count), tonumber(dead_count)
end
local version, future = ARGV[4], tonumber(ARGV[5])
local sort_of = { string.byte(ARGV[7], 1, -1) }
local at = 9 + tonumber(ARGV[8]) -- the next argument to be read
local sorts, twins = {}, false
for i = 9, at - 1 do
  local marker, limit, more, event_type = match(ARGV[i], '^(%d) (%d+) (%d+) (.*)$')
  sorts[i - 8] = { marker = marker, limit = tonumber(limit), more = tonumber(more), event_type = event_type }
  twins = twins or marker == '2'
end

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
local received_at = format(WHOLE, now)
-- Mostly no time that was given is too far ahead, which one look at the latest says.
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
local written = {} -- states of limits that this call has written, by key
local first_limit = next_limit

-- Mostly none of the markers is there, which one look at all of them says.
local all_new = next_marker <= #KEYS and pcall_('EXISTS', unpack(KEYS, next_marker)) == 0

-- Of the section: its keys, what it says, and how far it is.
local incoming, counters, policy, size, groups
local exceptions -- of dead letters only
local length, limits, tats, charged
local accepted, duplicates, limited, overloaded
local event = 0 -- the number of the event before, of all
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
    known = { expires = format(WHOLE, now + numbers[1] * 1000), bound = numbers[2], periods = periods, reaches = reaches }
    policies[text] = known
  end
  return known
end

-- Where the theoretical arrival time of limit i is, at the earliest now.
local function load_limit(i)
  local key = KEYS[next_limit]
  local state = written[key] or states[next_limit - first_limit + 1]
  limits[i] = key
  next_limit = next_limit + 1
  if policy.periods[i] == 0 then
    tats[i] = now_us -- whatever is left of a limit that there was
    return
  end
  local instant, ahead
  if type(state) == 'string' then
    instant, ahead = match(state, '^(%d+) ?(%d*)$')
  end
  local tat, furthest = tonumber(instant) or 0, now_us + math.max(policy.reaches[i], tonumber(ahead) or 0)
  if tat > furthest then
    -- The clock was set back (rule 23). This is written even if nothing is charged: a limit that is found reached, and
    -- is cut anew each time, would stay reached until the clock is where it was.
    tat = furthest
    charged[i] = true
  end
  tats[i] = tat > now_us and tat or now_us
end

-- How long until n more fit into limit i, in us; none: they do now. More than a burst fit when it is at rest.
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

-- Moves ms and seq past the stream's last id; false: that was not why XADD failed.
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
local function bury(id, occurred_at, first, sort)
  local out = { 'v', version, 'event_id', ARGV[first] }
  if sort.event_type ~= '' then
    out[#out + 1] = 'event_type'
    out[#out + 1] = sort.event_type
  end
  for _, value in ipairs({ 'occurred_at', occurred_at, 'received_at', received_at, 'attempt', '1',
    'origin', id, 'body', ARGV[first + 2], 'first_failed_at', received_at, 'failed_at', received_at }) do
    out[#out + 1] = value
  end
  for i = first + 3, first + 2 + sort.more do
    out[#out + 1] = ARGV[i]
  end
  local reply = pcall_('XADD', incoming, id, unpack(out))
  if reply == id then
    pcall_('HSET', exceptions, ARGV[first], 'dead:' .. id)
  end
  return reply
end

-- The new entry's id; false: Redis refused it.
local function append(first, sort)
  local occurred_at = ARGV[first + 1]
  if occurred_at == '' or (some_ahead and tonumber(occurred_at) > now + future) then
    occurred_at = received_at
  end
  repeat
    local id = format(id_format, seq)
    local reply
    if exceptions then
      reply = bury(id, occurred_at, first, sort)
    else
      reply = pcall_('XADD', incoming, id, 'v', version, 'event_id', ARGV[first], 'event_type', sort.event_type,
        'occurred_at', occurred_at, 'received_at', received_at, 'attempt', '1', 'origin', id, 'body', ARGV[first + 2],
        unpack(ARGV, first + 3, first + 2 + sort.more))
    end
    if reply == id then
      seq = seq + 1
      return id
    end
  until not catch_up()
  return false
end

-- Whether the event was appended, which its marker then says.
local function accept(first, sort, marker)
  if not append(first, sort) then
    return false
  end
  if marker then
    pcall_('SET', marker, '1', 'PXAT', policy.expires)
  end
  return true
end

-- The event's marker, if it has one, and whether it is there: 1, 0, or what Redis says instead.
local function marked(sort)
  if sort.marker == '0' then
    return nil, 0
  end
  local marker = KEYS[next_marker]
  next_marker = next_marker + 1
  if all_new and sort.marker == '1' then
    return marker, 0
  end
  return marker, pcall_('EXISTS', marker)
end

local function one(first, sort)
  local own, marker, seen = sort.limit, marked(sort)
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
  elseif not accept(first, sort, marker) then
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

-- Appends all, or none.
local function append_all(events)
  local ids = {}
  for i, new in ipairs(events) do
    local id = append(new.first, new.sort)
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
  for _, given in ipairs(events) do
    local marker, seen = marked(given.sort)
    if type(seen) == 'table' then
      broken = true
    elseif seen == 0 and not (marker and known[marker]) then
      new[#new + 1] = given
      needs[given.sort.limit] = (needs[given.sort.limit] or 0) + 1
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
  needs[1] = #new -- whatever has a limit of its own is inside the platform's
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

-- Where the next event's arguments begin, and what sort it is.
local function next_event()
  local first = at
  event = event + 1
  local sort = sorts[sort_of[event]]
  at = at + 3 + sort.more
  return first, sort
end

-- Whether the section's events, n of them one by one, can all be accepted, as they mostly can.
local function all_fit(n)
  return all_new and not twins and not groups and #limits == 1 and length + n <= policy.bound
    and tats[1] + n * policy.periods[1] - now_us <= policy.reaches[1]
end

-- The next n events, which all_fit: as one() would do, without asking for each.
local function take_all(n)
  for _ = 1, n do
    local first, sort = next_event()
    local marker
    if sort.marker == '1' then
      marker = KEYS[next_marker]
      next_marker = next_marker + 1
    end
    if accept(first, sort, marker) then
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
  -- Gone a second after the limit would be back at rest: absent and at rest are the same.
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

local begun = {}
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
    length = 0 -- no stream: XADD says so for each event
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
    take_all(size)
  end
  while event - before < size do
    local events = groups and groups[event - before + 1]
    if events then
      local group = {}
      for i = 1, events do
        local first, sort = next_event()
        group[i] = { first = first, sort = sort }
      end
      answer(together(group))
    else
      answer(one(next_event()))
    end
  end

  for i = 1, #limits do
    if charged[i] then
      save_limit(i)
    end
  end
  if was_empty and accepted > 0 then
    begun[#begun + 1] = platform
  end
  count('accepted', accepted)
  if dead then
    count('dead_lettered', accepted)
  end
  count('duplicate', duplicates)
  count('rate_limited', limited)
  count('overloaded', overloaded)
end
if indexed and #begun > 0 then
  pcall_('SADD', KEYS[1], unpack(begun))
end
return outcomes
