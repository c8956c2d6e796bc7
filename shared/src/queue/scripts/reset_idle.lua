#!lua flags=allow-oom
-- Lets the idle time of entries begin anew whose last delivery lies in the future: Redis's clock was set back since, and
-- no claim would find them idle before it is there again (rule 23). Holder and delivery count stay as they are.
--
-- KEYS  1 incoming
-- ARGV  1 group  2 id to go on after|''  3 most entries to look at
-- Reply id to go on after ('': the end was reached); NOGROUP if there is no group
--
-- Redis says that such entries are idle for no time at all, as it says of those that were delivered this very
-- millisecond. Those lose nothing by it.

local group, most = ARGV[1], tonumber(ARGV[3])
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local pending = redis.call('XPENDING', KEYS[1], group, from, '+', most)
for _, entry in ipairs(pending) do
  local id, consumer, idle = entry[1], entry[2], entry[3]
  if idle == 0 then
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'IDLE', 0, 'JUSTID')
  end
end
return #pending < most and '' or pending[#pending][1]
