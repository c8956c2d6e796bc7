#!lua
-- Adds a dead letter that was exported, with the fields that are given, once. Without allow-oom: an import is no
-- emergency.
--
-- KEYS  1 dlq  2 imported (id where it was exported -> id here)  3 exceptions
-- ARGV  1 id where it was exported  2 most dead letters  3 how long it is remembered, in s  then field, value, …
-- Reply its id, 0 it is here already, 1 the dead letters are at their bound (rule 31)
--
-- It is here already if the very entry still is, or what an earlier import made of it. So an import that was broken off
-- is simply run again.

local LONGEST_ID = 256 -- in bytes; an event has no longer one
local MOST_VALUES = 4000 -- what unpack can pass on
local original, most, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local function holds(id)
  return #redis.call('XRANGE', KEYS[1], id, id) == 1
end

-- Whether the entry was never taken away after it was exported.
local function stayed()
  local entry = redis.call('XRANGE', KEYS[1], original, original)[1]
  if not entry or #entry[2] ~= #ARGV - 3 then
    return false
  end
  for at, value in ipairs(entry[2]) do
    if value ~= ARGV[at + 3] then
      return false
    end
  end
  return true
end

local before = redis.call('HGET', KEYS[2], original)
if stayed() or before and holds(before) then
  return 0
elseif redis.call('XLEN', KEYS[1]) >= most then
  return 1
elseif #ARGV - 3 > MOST_VALUES then
  return redis.error_reply('ERR more fields than a script can move')
end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
redis.call('HSET', KEYS[2], original, id)
redis.call('EXPIRE', KEYS[2], ttl)
for at = 4, #ARGV, 2 do
  if ARGV[at] == 'event_id' then
    if #ARGV[at + 1] > 0 and #ARGV[at + 1] <= LONGEST_ID then
      redis.call('HSET', KEYS[3], ARGV[at + 1], 'dead:' .. id)
    end
    break
  end
end
return id
