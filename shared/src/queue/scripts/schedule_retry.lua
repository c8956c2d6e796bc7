#!lua flags=allow-oom
-- Puts failed entries into the retry set.
--
-- The payload stays in the stream. The member of the retry set is the bare id, so that an entry
-- cannot wait twice. `failures` holds the facts of the failure until promote merges them
-- (transitions-are-conditional).
--
-- KEYS  1 incoming  2 retry  3 failures  4 suspects  5 counters  6 exceptions
-- ARGV  1 group  2 consumer
--       3 number of executions that spent no attempt (0 for events)
--       4 1 if the entries wait for a busy destination and may be released early, else 0
--       then per entry: id, delay in ms, attempt, first_failed_at or '', error_code, error
-- Reply one integer per entry: 1 done,
--       0 the entry does not exist or is not pending for this consumer; nothing was done
--
-- Without first_failed_at the entry keeps its own: a wait that costs nothing must not start the
-- time bound of one that does (missing-session-is-bounded-by-time).
--
-- ZADD comes before XACK, so that the entry is always in one of the two lists.

local group, consumer, excused = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local MAX_ID_BYTES = 256 -- longer ids are not indexed

local function event_id(fields)
  for at = 1, #fields, 2 do
    if fields[at] == 'event_id' then
      local id = fields[at + 1]
      return #id > 0 and #id <= MAX_ID_BYTES and id or nil
    end
  end
end

local done, total = {}, 0
for at = 5, #ARGV, 6 do
  local id = ARGV[at]
  local held = redis.call('XPENDING', KEYS[1], group, id, id, 1, consumer)
  local entry = #held == 1 and redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local event = event_id(entry[2])
    local facts = { delay = ARGV[at + 1], attempt = ARGV[at + 2], error_code = ARGV[at + 4],
      error = ARGV[at + 5] }
    if ARGV[at + 3] ~= '' then
      facts.first_failed_at = ARGV[at + 3]
    end
    if excused ~= '0' then
      facts.excused = excused
    end
    if ARGV[4] == '1' then
      facts.held = '1'
    end
    if event then
      facts.event_id = event
      redis.call('HSET', KEYS[6], event, 'retrying')
    end
    redis.call('HSET', KEYS[3], id, cjson.encode(facts))
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[at + 1])), id)
    redis.call('XACK', KEYS[1], group, id)
    redis.call('HDEL', KEYS[4], id)
    done[#done + 1] = 1
    total = total + 1
  else
    done[#done + 1] = 0
  end
end
if total > 0 then
  redis.call('HINCRBY', KEYS[5], 'retried', total)
end
return done
