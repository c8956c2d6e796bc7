#!lua flags=allow-oom
-- Makes retries due that wait for a busy destination, as it is let go on.
--
-- KEYS  1 retry  2 failures
-- ARGV  1 due time to go on after, or '' at the beginning  2 most entries to look at
-- Reply due time to go on after, or '' if the end was reached; number of entries that were made due

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local from, most = ARGV[1] == '' and now or ARGV[1], tonumber(ARGV[2])
local waiting = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. from, '+inf', 'WITHSCORES',
  'LIMIT', 0, most)
local final = waiting[#waiting]
local released, last = 0, final
for at = 1, #waiting, 2 do
  local stored = redis.call('HGET', KEYS[2], waiting[at])
  local readable, facts = pcall(cjson.decode, stored or '')
  if readable and type(facts) == 'table' and facts.held then
    redis.call('ZADD', KEYS[1], now, waiting[at])
    released = released + 1
  end
  -- Others may be due at the same time as the last of them, and come with the next call.
  if waiting[at + 1] ~= final then
    last = waiting[at + 1]
  end
end
return { #waiting < most * 2 and '' or last, released }
