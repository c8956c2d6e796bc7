#!lua flags=allow-oom
-- Deletes consumers that are idle for long and hold nothing (consumer-name-has-one-holder).
-- Deleting a consumer with pending entries would lose them, so check and deletion are one step.
--
-- KEYS  1 incoming
-- ARGV  1 group  2 minimum idle time in ms
-- Reply number of deleted consumers; NOGROUP if there is no group

local reaped = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local named = {}
  for at = 1, #info, 2 do
    named[info[at]] = info[at + 1]
  end
  if named.pending == 0 and named.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], named.name)
    reaped = reaped + 1
  end
end
return reaped
