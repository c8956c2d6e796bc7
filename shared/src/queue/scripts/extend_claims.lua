#!lua flags=allow-oom
-- Extends claims, or hands entries back, by setting their idle time (claims-are-extended).
--
-- KEYS  1 incoming
-- ARGV  1 group  2 consumer  3 idle time in ms, then ids
-- Reply one integer per id: 1 done, 0 not pending for this consumer any more
--
-- Only the consumer's own entries are touched: a plain XCLAIM would take entries back from a worker
-- that has claimed them since. JUSTID keeps the delivery count.

local group, consumer = ARGV[1], ARGV[2]
local own = {}
for at = 4, #ARGV do
  if #redis.call('XPENDING', KEYS[1], group, ARGV[at], ARGV[at], 1, consumer) == 1 then
    own[#own + 1] = ARGV[at]
  end
end
local held = {}
if #own > 0 then
  local call = { 'XCLAIM', KEYS[1], group, consumer, 0 }
  for _, id in ipairs(own) do
    call[#call + 1] = id
  end
  call[#call + 1] = 'IDLE'
  call[#call + 1] = ARGV[3]
  call[#call + 1] = 'JUSTID'
  for _, id in ipairs(redis.call(unpack(call))) do
    held[id] = 1
  end
end
local outcomes = {}
for at = 4, #ARGV do
  outcomes[#outcomes + 1] = held[ARGV[at]] or 0
end
return outcomes
