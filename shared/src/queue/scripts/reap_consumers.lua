#!lua flags=allow-oom
-- Forgets consumers that are long gone and hold nothing (rule 17). Deleting one with pending entries would lose them, so
-- looking and deleting are one step.
--
-- KEYS  1 incoming
-- ARGV  1 group  2 least idle time in ms
-- Reply how many; NOGROUP if there is no group

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
