#!lua flags=allow-oom
-- Acquires permission for one delivery, across all workers (GCRA, as for events in enqueue.lua).
--
-- KEYS  1 limit  2 state
-- ARGV  1 period in us  2 burst
-- Reply 0 deliver now, 1 wait for the rate limit, 2 wait for a busy destination,
--       3 wait for an operator who paused it, 4 abandon: it answered 410
--       then the time to wait in ms; 0 if unknown
--
-- A state of another type than a hash counts as empty.

local MAX_PAUSE = 3600000 -- in ms; a later end was noted before the clock was set back
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local period, reach = tonumber(ARGV[1]), tonumber(ARGV[2]) * tonumber(ARGV[1])
local state = redis.pcall('HMGET', KEYS[2], 'busy_until', 'paused', 'gone')
local busy, paused, gone = state[1], state[2], state[3]
if gone and gone ~= '' then
  return { 4, 0 }
end
if paused == '1' then
  return { 3, 0 }
end
local held = (tonumber(busy or '') or 0) - math.floor(now / 1000)
if held > 0 and held <= MAX_PAUSE then
  return { 2, math.ceil(held) }
end
local tat = tonumber(redis.call('GET', KEYS[1])) or 0
if not (tat >= 0) then
  tat = 0
end
tat = math.max(math.min(tat, now + reach), now) -- the clock may have been set back
local wait = tat + period - now - reach
if wait > 0 then
  return { 1, math.max(1, math.ceil(wait / 1000)) }
end
redis.call('SET', KEYS[1], string.format('%.0f', tat + period), 'PX',
  string.format('%.0f', math.ceil((tat + period - now) / 1000) + 1000))
return { 0, 0 }
