#!lua flags=allow-oom
-- Sets a field of the facts about this Redis if it is absent.
--
-- KEYS  1 meta
-- ARGV  1 field  2 value
-- Reply the stored value

redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1], ARGV[1])
