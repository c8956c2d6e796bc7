#!lua flags=allow-oom
-- Acquires or renews the lease on a consumer name (consumer-name-has-one-holder).
--
-- KEYS  1 lease
-- ARGV  1 token  2 duration in ms
-- Reply 1 the token holds it, 0 another one does

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
