#!lua flags=allow-oom
-- Resets the idle time of entries whose last delivery lies in the future, because Redis's clock was
-- set back since. Otherwise no claim would find them idle until the clock has caught up
-- (clock-steps-are-harmless). Holder and delivery count stay.
--
-- KEYS  1 incoming
-- ARGV  1 group  2 id to continue after, or ''  3 maximum number of entries to examine
-- Reply id to continue after, or '' at the end; NOGROUP if there is no group
--
-- Redis reports an idle time of 0 for such entries, as for those delivered in this millisecond.
-- Resetting the latter is harmless.

local group, limit = ARGV[1], tonumber(ARGV[3])
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local pending = redis.call('XPENDING', KEYS[1], group, from, '+', limit)
for _, entry in ipairs(pending) do
  local id, consumer, idle = entry[1], entry[2], entry[3]
  if idle == 0 then
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'IDLE', 0, 'JUSTID')
  end
end
return #pending < limit and '' or pending[#pending][1]
