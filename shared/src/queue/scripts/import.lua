#!lua
-- Imports an exported dead letter with the given fields, once. This script has no allow-oom,
-- because an import can wait.
--
-- KEYS  1 dlq  2 imported (exported id -> id here)  3 exceptions
-- ARGV  1 exported id  2 bound of the dead letters  3 time to remember it in s
--       then field, value, …
-- Reply its id, 0 it is present already, 1 the dead letters are at their bound
--
-- It is present if the exported entry itself still exists, or the entry of an earlier import. An
-- interrupted import can therefore be repeated.

local MAX_ID_BYTES = 256 -- longer ids are not indexed
local MAX_VALUES = 4000 -- limit of unpack
local original, limit, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local function holds(id)
  return #redis.call('XRANGE', KEYS[1], id, id) == 1
end

-- Returns whether the exported entry still exists unchanged.
local function still_exists()
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
if still_exists() or before and holds(before) then
  return 0
elseif redis.call('XLEN', KEYS[1]) >= limit then
  return 1
elseif #ARGV - 3 > MAX_VALUES then
  return redis.error_reply('ERR more fields than a script can move')
end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
redis.call('HSET', KEYS[2], original, id)
redis.call('EXPIRE', KEYS[2], ttl)
for at = 4, #ARGV, 2 do
  if ARGV[at] == 'event_id' then
    if #ARGV[at + 1] > 0 and #ARGV[at + 1] <= MAX_ID_BYTES then
      redis.call('HSET', KEYS[3], ARGV[at + 1], 'dead:' .. id)
    end
    break
  end
end
return id
