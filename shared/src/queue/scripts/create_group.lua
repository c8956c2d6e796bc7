#!lua flags=allow-oom
-- Sees to it that stream and group are there.
--
-- KEYS  1 incoming  2 retry  3 failures  4 exceptions
-- ARGV  1 group
-- Reply 1 created, 0 it existed; WRONGTYPE if the key is no stream
--
-- A new group begins at 0, never at the end: what arrived while it was missing must not be skipped. So entries that wait
-- for a retry come back as new ones, and the retry set, which would promote them a second time, is dropped (rule 3), and no event counts as waiting for a retry any more.

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('XLEN', KEYS[1])
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    for at = 1, #info, 2 do
      if info[at] == 'name' and info[at + 1] == ARGV[1] then
        return 0
      end
    end
  end
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
redis.call('DEL', KEYS[2], KEYS[3])
local cursor = '0'
repeat
  local page = redis.call('HSCAN', KEYS[4], cursor, 'COUNT', 1000)
  cursor = page[1]
  for at = 1, #page[2], 2 do
    if page[2][at + 1] == 'retrying' then
      redis.call('HDEL', KEYS[4], page[2][at])
    end
  end
until cursor == '0'
return 1
