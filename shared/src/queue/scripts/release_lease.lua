#!lua flags=allow-oom
-- Releases a lease, unless another token holds it.
--
-- KEYS  1 lease
-- ARGV  1 token
-- Reply 1 released, 0 the token did not hold it

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
