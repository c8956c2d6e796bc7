#!lua flags=allow-oom
-- Settles events whose effect is in the database, and publishes the results of awaited ones. No
-- other script finishes an event (one-script-per-transition).
--
-- KEYS  1 incoming  2 retry  3 failures  4 suspects  5 counters  6 exceptions  7 outbox
--       then one result key per awaited event
-- ARGV  1 group
--       2 n, then n ids
--       then r, then r runs: counter or '', number of consecutive ids that it counts
--       then m, then m moved events: index of the id (from 1), event_id,
--         for events that were rescheduled or replayed before
--       then f, then f forwarded events: index, destinations, result as JSON or '',
--         traceparent that replaces the entry's, or ''
--       then per awaited event: index, channel, reply
-- Reply n integers: 1 if this call's XDEL removed the entry, else 0
--
-- Only a removed entry is counted, forwarded and published (settle-counts-once).
--
-- One XDEL deletes a run of ids with the same counter, and its reply is the count. It does not say
-- which entries existed. All of them did, unless one was deleted by hand while pending, because
-- every script acknowledges an entry before deleting it. If one of the ids was not pending any
-- more, each is deleted by itself. After a deletion by hand the number of removed entries in a run
-- is right, but not their positions. Events that need more than counting are runs of one.
--
-- The outbox entry keeps all fields of the event. It moves the entry, so it may be written when
-- Redis is full (moves-run-when-full).
--
-- The holder of an entry does not matter: the database decides about effects, so a late settle is
-- welcome. An event that nothing waits for and that was never moved costs only its id.

local RESULT_TTL_S = 60 -- see reply.rs
local MAX_VALUES = 4000 -- limit of unpack

local group, n = ARGV[1], tonumber(ARGV[2])
local after_ids = 3 + n
local after_runs = after_ids + 1 + 2 * tonumber(ARGV[after_ids])
local after_moved = after_runs + 1 + 2 * tonumber(ARGV[after_runs])

local function id_of(position)
  return ARGV[2 + position]
end

local forwarded = tonumber(ARGV[after_moved])
local copies = {}
if forwarded > 0 then
  redis.call('XLEN', KEYS[7]) -- fails on a wrong type before anything is changed
end
for at = after_moved + 1, after_moved + 4 * forwarded, 4 do
  local id = id_of(tonumber(ARGV[at]))
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry and #entry[2] <= MAX_VALUES then
    copies[at] = entry[2]
  end
end

local all_pending = redis.call('XACK', KEYS[1], group, unpack(ARGV, 3, 2 + n)) == n
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4]) > 0 then
  if redis.call('ZREM', KEYS[2], unpack(ARGV, 3, 2 + n)) > 0 then
    -- Another worker rescheduled one of them after this worker read it.
    for position = 1, n do
      local entry = redis.call('XRANGE', KEYS[1], id_of(position), id_of(position))[1]
      local fields = entry and entry[2] or {}
      for at = 1, #fields, 2 do
        if fields[at] == 'event_id' then
          redis.call('HDEL', KEYS[6], fields[at + 1])
        end
      end
    end
  end
  redis.call('HDEL', KEYS[3], unpack(ARGV, 3, 2 + n))
  redis.call('HDEL', KEYS[4], unpack(ARGV, 3, 2 + n))
end

local removed, counts, position = {}, {}, 1
for run = after_ids + 1, after_runs - 1, 2 do
  local field, size = ARGV[run], tonumber(ARGV[run + 1])
  local step = all_pending and size or 1
  for first = position, position + size - 1, step do
    local gone = redis.call('XDEL', KEYS[1], unpack(ARGV, 2 + first, 1 + first + step))
    for i = 0, step - 1 do
      removed[first + i] = i < gone and 1 or 0
    end
    if gone > 0 and field ~= '' then
      counts[field] = (counts[field] or 0) + gone
    end
  end
  position = position + size
end
for field, number in pairs(counts) do
  redis.call('HINCRBY', KEYS[5], field, number)
end

local at = after_runs
for _ = 1, tonumber(ARGV[at]) do
  if removed[tonumber(ARGV[at + 1])] == 1 then
    redis.call('HDEL', KEYS[6], ARGV[at + 2])
  end
  at = at + 2
end
if forwarded > 0 then
  local time = redis.call('TIME')
  local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
  for from = after_moved + 1, after_moved + 4 * forwarded, 4 do
    local fields = copies[from]
    if fields and removed[tonumber(ARGV[from])] == 1 then
      if ARGV[from + 3] ~= '' then
        local place = #fields + 1
        for field = 1, #fields, 2 do
          if fields[field] == 'traceparent' then
            place = field
          end
        end
        fields[place], fields[place + 1] = 'traceparent', ARGV[from + 3]
      end
      for _, more in ipairs({ 'forwarded_at', now, 'destinations', ARGV[from + 1],
        'result', ARGV[from + 2] }) do
        fields[#fields + 1] = more
      end
      redis.call('XADD', KEYS[7], '*', unpack(fields))
    end
  end
end
local next_key = 8
for awaited = after_moved + 4 * forwarded + 1, #ARGV, 3 do
  if removed[tonumber(ARGV[awaited])] == 1 then
    -- Permissions may forbid this. The event is settled nevertheless.
    redis.pcall('SET', KEYS[next_key], ARGV[awaited + 2], 'EX', RESULT_TTL_S)
    redis.pcall('PUBLISH', ARGV[awaited + 1], ARGV[awaited + 2])
  end
  next_key = next_key + 1
end
return removed
