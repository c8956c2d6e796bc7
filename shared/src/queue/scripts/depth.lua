#!lua flags=no-writes
-- Returns a platform's numbers of events by state, and the age of the oldest. The cost does not
-- depend on the length of the stream.
--
-- KEYS  1 incoming  2 retry  3 dlq
-- ARGV  1 group
-- Reply length, pending, retrying, dead letters, now in ms,
--       received_at of the oldest unfinished event that waits for no retry, or false,
--       received_at of the first entry, or false
--
-- XINFO's `lag` is not used: it is wrong after XDEL on Redis 7.0 (backlog-counts-entries). An
-- unfinished event that waits for no retry is pending or undelivered. Both lists are ordered by id,
-- so the first of each is enough.

local incoming = KEYS[1]
local length, pending, delivered = 0, 0, nil
if redis.call('EXISTS', incoming) == 1 then
  length = redis.call('XLEN', incoming)
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', incoming)) do
    local named = {}
    for at = 1, #info, 2 do
      named[info[at]] = info[at + 1]
    end
    if named.name == ARGV[1] then
      pending, delivered = named.pending, named['last-delivered-id']
    end
  end
end

local function received_at(entry)
  if not entry then
    return nil
  end
  local fields = entry[2]
  for at = 1, #fields, 2 do
    if fields[at] == 'received_at' and tonumber(fields[at + 1]) then
      return tonumber(fields[at + 1])
    end
  end
  return tonumber(string.match(entry[1], '^%d+'))
end

local oldest
local function consider(entry)
  local at = received_at(entry)
  if at and (not oldest or at < oldest) then
    oldest = at
  end
end

local head
if length > 0 then
  head = redis.call('XRANGE', incoming, '-', '+', 'COUNT', 1)[1]
  local from = delivered and '(' .. delivered or '-'
  consider(redis.call('XRANGE', incoming, from, '+', 'COUNT', 1)[1])
  if pending > 0 then
    local first = redis.call('XPENDING', incoming, ARGV[1], '-', '+', 1)[1]
    consider(first and redis.call('XRANGE', incoming, first[1], first[1])[1])
  end
end

local function text(number)
  return number and string.format('%.0f', number) or false
end
local time = redis.call('TIME')
return {
  length, pending, redis.call('ZCARD', KEYS[2]), redis.call('XLEN', KEYS[3]),
  text(tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)),
  text(oldest), text(received_at(head)),
}
