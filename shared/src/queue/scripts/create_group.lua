#!lua flags=allow-oom
-- Creates the stream and its group if they are missing.
--
-- KEYS  1 incoming  2 retry  3 failures  4 exceptions
-- ARGV  1 group
-- Reply 1 created, 0 it existed; WRONGTYPE if the key is not a stream
--
-- A new group begins at 0, never at the end, so that no event is skipped. Entries waiting for a
-- retry are thus delivered as new ones. The retry set would promote them a second time, so it is
-- dropped, and the index no longer lists them as retrying.

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
