#!lua flags=allow-oom
-- Gives a queue another URL, as an operator asked.
--
-- KEYS  1 URLs: queue -> fingerprint of its URL, a blank, host
-- ARGV  1 queue  2 what it has, or ''  3 what it is to have
-- Reply 1 done, 0 it has something else by now

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
