#!lua flags=allow-oom
-- Counts that a suspect is about to run alone (rule 4). Redis's own delivery count only makes an entry suspect; this one
-- is cleared on every orderly outcome, so what remains are runs that ended the process.
--
-- KEYS  1 incoming  2 suspects
-- ARGV  1 id  2 a token of this run, without a colon
-- Reply how often, this time included; 0 if there is no such entry (nothing is kept then)
--
-- A run is counted once, however often its call is repeated because an answer was lost: the token of the last one
-- stands beside the count.

if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  redis.call('HDEL', KEYS[2], ARGV[1])
  return 0
end
local known = redis.call('HGET', KEYS[2], ARGV[1])
local runs, token = string.match(known or '', '^(%d+):(.*)$')
runs = tonumber(runs) or 0
if token ~= ARGV[2] then
  runs = runs + 1
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', runs) .. ':' .. ARGV[2])
end
return runs
