#!lua flags=allow-oom
-- Finishes events whose effect is in the database: the only script that does (rules 3, 15).
--
-- KEYS  1 incoming  2 retry  3 failures  4 suspects  5 counters
-- ARGV  1 group, then per event: id, counter's field|''
-- Reply one integer per event: 1 if this call's XDEL removed the entry, which is when it is counted, else 0
--
-- Whoever held the entry: the database decides about effects, so a late settle is welcome.

local ids, removed, counts = {}, {}, {}
for at = 2, #ARGV, 2 do
  ids[#ids + 1] = ARGV[at]
end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
for position, id in ipairs(ids) do
  local gone = redis.call('XDEL', KEYS[1], id)
  removed[position] = gone
  local field = ARGV[position * 2 + 1]
  if gone == 1 and field ~= '' then
    counts[field] = (counts[field] or 0) + 1
  end
end
redis.call('ZREM', KEYS[2], unpack(ids))
redis.call('HDEL', KEYS[3], unpack(ids))
redis.call('HDEL', KEYS[4], unpack(ids))
for field, number in pairs(counts) do
  redis.call('HINCRBY', KEYS[5], field, number)
end
return removed
