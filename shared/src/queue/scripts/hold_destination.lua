#!lua flags=allow-oom
-- Records that a destination is busy, so that no worker sends to it for a while.
--
-- KEYS  1 state
-- ARGV  1 pause that it asked for in ms, or ''  2 shortest pause  3 longest pause
--       4 first pause if it asked for none; pauses double  5 longest of these
-- Reply time from now without deliveries in ms; time since it became busy in ms;
--       1 if no pause was running, else 0
--
-- If the key is not a hash, each answer counts alone.

local state, longest = KEYS[1], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function number(field)
  local stored = redis.pcall('HGET', state, field)
  local value = type(stored) == 'string' and tonumber(stored)
  return value and value >= 0 and value < 1e15 and value or nil
end
local function text(value)
  return string.format('%.0f', value)
end

-- The clock may have been set back.
local since = math.min(number('busy_since') or now, now)
local till = number('busy_until') or 0
if till > now + longest then
  till = 0
end
local rounds = number('busy_rounds') or 0
-- The last pause ended long ago without a busy answer after it, so the count starts again.
if now - (number('busy_until') or 0) > tonumber(ARGV[3]) then
  since, rounds = now, 0
end
local begins = till <= now
if begins then
  rounds = rounds + 1
end
local pause = tonumber(ARGV[1])
if not pause then
  pause = math.min(tonumber(ARGV[4]) * 2 ^ math.min(rounds - 1, 30), tonumber(ARGV[5]))
end
pause = math.max(math.min(pause, longest), tonumber(ARGV[2]))
till = math.max(till, now + pause)
redis.pcall('HSET', state, 'busy_since', text(since), 'busy_until', text(till),
  'busy_rounds', text(rounds))
return { math.ceil(till - now), now - since, begins and 1 or 0 }
