#!lua flags=no-writes
-- Returns how often entries were delivered.
--
-- KEYS  1 incoming
-- ARGV  1 group  2 consumer, then ids
-- Reply one integer per id: Redis's delivery count, 0 if not pending for this consumer

local counts = {}
for at = 3, #ARGV do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1, ARGV[2])
  counts[#counts + 1] = held[1] and held[1][4] or 0
end
return counts
