#!lua flags=allow-oom
-- Gives a lease up (rule 17), unless another token holds it by now.
--
-- KEYS  1 lease
-- ARGV  1 token
-- Reply 1 given up, 0 the token did not hold it

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
