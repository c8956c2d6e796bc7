#!lua flags=allow-oom
-- Finds orphans and schedules them at once (orphans-return). An orphan was delivered, but is
-- neither pending nor in the retry set, so no read and no claim would return it. A healthy queue
-- has none.
--
-- KEYS  1 incoming  2 retry  3 counters
-- ARGV  1 group  2 id to continue after, or ''  3 maximum number of entries to examine
--       4 minimum age in ms
-- Reply id to continue after, or '' at the end; number of entries scheduled;
--       NOGROUP if there is no group
--
-- The age comes from the id. An id from the far future, after the clock was set back, counts as
-- old, because the entry would otherwise wait until the clock has caught up.

local group, limit, age = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local delivered
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local named = {}
    for at = 1, #info, 2 do
      named[info[at]] = info[at + 1]
    end
    if named.name == group then
      delivered = named['last-delivered-id']
    end
  end
end
if not delivered then
  return redis.error_reply('NOGROUP no such stream or group')
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local entries = redis.call('XRANGE', KEYS[1], from, delivered, 'COUNT', limit)
local scheduled = 0
for _, entry in ipairs(entries) do
  local id = entry[1]
  local ms = tonumber(string.match(id, '^%d+'))
  if math.abs(now - ms) >= age
    and #redis.call('XPENDING', KEYS[1], group, id, id, 1) == 0
    and not redis.call('ZSCORE', KEYS[2], id)
  then
    redis.call('ZADD', KEYS[2], string.format('%.0f', now), id)
    scheduled = scheduled + 1
  end
end
if scheduled > 0 then
  redis.call('HINCRBY', KEYS[3], 'orphaned', scheduled)
end
return { #entries < limit and '' or entries[#entries][1], scheduled }
