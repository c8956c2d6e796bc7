#!lua flags=allow-oom
-- Asks for leave to make one delivery, across all workers (GCRA, as rule 24 has it for events).
--
-- KEYS  1 limit  2 state
-- ARGV  1 period in us  2 burst
-- Reply 0 go on, else how long to wait, in ms: less than 0 if the destination is busy (no key but a
--       hash can say so)

local MAX_PAUSE = 3600000 -- in ms; what lies further ahead was noted before the clock was set back
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local period, reach = tonumber(ARGV[1]), tonumber(ARGV[2]) * tonumber(ARGV[1])
local busy = redis.pcall('HGET', KEYS[2], 'busy_until')
local held = (type(busy) == 'string' and tonumber(busy) or 0) - math.floor(now / 1000)
if held > 0 and held <= MAX_PAUSE then
  return -math.ceil(held)
end
local tat = tonumber(redis.call('GET', KEYS[1])) or 0
if not (tat >= 0) then
  tat = 0
end
tat = math.max(math.min(tat, now + reach), now) -- the clock may have been set back (rule 23)
local wait = tat + period - now - reach
if wait > 0 then
  return math.max(1, math.ceil(wait / 1000))
end
redis.call('SET', KEYS[1], string.format('%.0f', tat + period), 'PX',
  string.format('%.0f', math.ceil((tat + period - now) / 1000) + 1000))
return 0
