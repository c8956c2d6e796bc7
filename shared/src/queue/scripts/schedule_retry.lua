#!lua flags=allow-oom
-- Puts failed entries into the retry set. The payload stays where it is; the member is the bare id, so that an entry
-- cannot wait twice, and what the next execution must know stands in `failures` until promote merges it (rule 3).
--
-- KEYS  1 incoming  2 retry  3 failures  4 suspects  5 counters  6 exceptions
-- ARGV  1 group  2 consumer  3 executions that spent no attempt (0 of an event)
--       4 1 if they wait for a busy destination, so that its release releases them, then per entry:
--       id, delay in ms, attempt, first_failed_at|'', error_code, error
-- Reply one integer per entry: 1 done, 0 it does not exist or is not pending for this consumer (nothing was done)
--
-- Without first_failed_at the entry keeps what it says of it: a wait that is free must not begin the time bound of one
-- that is not (rule 8).
--
-- ZADD comes before XACK: at no instant is the entry in neither list.

local group, consumer, excused = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local LONGEST_ID = 256 -- in bytes; an event has no longer one

local function event_id(fields)
  for at = 1, #fields, 2 do
    if fields[at] == 'event_id' then
      local id = fields[at + 1]
      return #id > 0 and #id <= LONGEST_ID and id or nil
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
    local facts = { delay = ARGV[at + 1], attempt = ARGV[at + 2], error_code = ARGV[at + 4], error = ARGV[at + 5] }
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
