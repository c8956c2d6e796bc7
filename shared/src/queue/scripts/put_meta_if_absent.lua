#!lua flags=allow-oom
-- Notes something about this Redis unless it stands there already (rules 7, 12, 38).
--
-- KEYS  1 meta
-- ARGV  1 field  2 value
-- Reply what stands there now

redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1], ARGV[1])
