#!lua flags=allow-oom
-- Removes dead letters and, of those that were there, the duplicate markers: else the provider's resend of a purged
-- event would vanish (rule 30).
--
-- KEYS  1 dlq, then one marker per dead letter that has one
-- ARGV  per dead letter: id, has a marker (0|1)
-- Reply one integer per dead letter: 1 removed, 0 there was none

local removed, next_key = {}, 2
for at = 1, #ARGV, 2 do
  local gone = redis.call('XDEL', KEYS[1], ARGV[at])
  if ARGV[at + 1] == '1' then
    if gone == 1 then
      redis.call('DEL', KEYS[next_key])
    end
    next_key = next_key + 1
  end
  removed[#removed + 1] = gone
end
return removed
