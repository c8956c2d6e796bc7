#!lua flags=allow-oom
-- Gives a queue another receiver, on request of an operator.
--
-- KEYS  1 hash that bind_urls.lua describes
-- ARGV  1 queue  2 its present value, or ''  3 its new value, without the number
-- Reply 1 done, 0 it has another value by now
--
-- The queue becomes the last of its new receiver's queues, so that the receiver's own stays first.

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
local last = 0
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  last = math.max(last, tonumber(string.match(value, '^%x+ %S* %S+ (%d+)$')) or 0)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ' ' .. (last + 1))
return 1
