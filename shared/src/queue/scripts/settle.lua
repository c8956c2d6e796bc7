#!lua flags=allow-oom
-- Finishes events whose effect is in the database: the only script that does (rules 3, 15), and tells who waits for
-- them (rules 28, 29).
--
-- KEYS  1 incoming  2 retry  3 failures  4 suspects  5 counters  6 exceptions  then one result per awaited event
-- ARGV  1 group  2 n, then n times: id, counter's field|''
--       then m, then m times: which of the n (from 1), event_id, of those that were put off or replayed before
--       then per awaited event: which of the n, channel, what it is told
-- Reply n integers: 1 if this call's XDEL removed the entry, which is when it is counted and told, else 0
--
-- Whoever held the entry: the database decides about effects, so a late settle is welcome. What nobody waits for and was
-- never put off costs nothing beside its two arguments.

local KEPT_S = 60 -- how long a result can be asked for

local group, n = ARGV[1], tonumber(ARGV[2])
local ids, removed, counts = {}, {}, {}
for position = 1, n do
  ids[position] = ARGV[position * 2 + 1]
end

redis.call('XACK', KEYS[1], group, unpack(ids))
if redis.call('ZREM', KEYS[2], unpack(ids)) > 0 then
  -- Another worker has put one of them off since it was read here.
  for _, id in ipairs(ids) do
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    local fields = entry and entry[2] or {}
    for at = 1, #fields, 2 do
      if fields[at] == 'event_id' then
        redis.call('HDEL', KEYS[6], fields[at + 1])
      end
    end
  end
end
for position, id in ipairs(ids) do
  local gone = redis.call('XDEL', KEYS[1], id)
  removed[position] = gone
  local field = ARGV[position * 2 + 2]
  if gone == 1 and field ~= '' then
    counts[field] = (counts[field] or 0) + 1
  end
end
redis.call('HDEL', KEYS[3], unpack(ids))
redis.call('HDEL', KEYS[4], unpack(ids))
for field, number in pairs(counts) do
  redis.call('HINCRBY', KEYS[5], field, number)
end

local at = 3 + 2 * n
for _ = 1, tonumber(ARGV[at]) do
  if removed[tonumber(ARGV[at + 1])] == 1 then
    redis.call('HDEL', KEYS[6], ARGV[at + 2])
  end
  at = at + 2
end
local next_key = 7
for awaited = at + 1, #ARGV, 3 do
  if removed[tonumber(ARGV[awaited])] == 1 then
    -- Permissions may forbid it; that keeps nothing from being settled.
    redis.pcall('SET', KEYS[next_key], ARGV[awaited + 2], 'EX', KEPT_S)
    redis.pcall('PUBLISH', ARGV[awaited + 1], ARGV[awaited + 2])
  end
  next_key = next_key + 1
end
return removed
