#!lua flags=allow-oom
-- Makes retries due that wait for a busy destination, when an operator resumes it.
--
-- KEYS  1 retry  2 failures
-- ARGV  1 due time to continue after, or '' at the beginning  2 maximum number of entries
-- Reply due time to continue after, or '' at the end; number of entries made due

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local from, limit = ARGV[1] == '' and now or ARGV[1], tonumber(ARGV[2])
local waiting = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. from, '+inf', 'WITHSCORES',
  'LIMIT', 0, limit)
local final = waiting[#waiting]
local released, last = 0, final
for at = 1, #waiting, 2 do
  local stored = redis.call('HGET', KEYS[2], waiting[at])
  local readable, facts = pcall(cjson.decode, stored or '')
  if readable and type(facts) == 'table' and facts.held then
    redis.call('ZADD', KEYS[1], now, waiting[at])
    released = released + 1
  end
  -- Other entries may have the same due time as the last one; the next call examines them.
  if waiting[at + 1] ~= final then
    last = waiting[at + 1]
  end
end
return { #waiting < limit * 2 and '' or last, released }
