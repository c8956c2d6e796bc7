#!lua flags=allow-oom
-- Counts a run of a suspect alone, before it begins (suspects-run-alone).
--
-- Redis's delivery count only makes an entry suspect. This count is cleared by every orderly
-- outcome, so it counts the runs that ended the process.
--
-- KEYS  1 incoming  2 suspects
-- ARGV  1 id  2 token of this run, without a colon
-- Reply number of runs, this one included; 0 if there is no such entry, and nothing is kept
--
-- The token of the last run is stored beside the count. A call repeated after a lost reply
-- therefore counts once.

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
