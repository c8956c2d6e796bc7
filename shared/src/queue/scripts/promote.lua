#!lua flags=allow-oom
-- Promotes due entries: a new entry at the end of the stream replaces the old one.
--
-- KEYS  1 incoming  2 retry  3 failures  4 suspects  5 exceptions
-- ARGV  1 group  2 longest delay in ms  3 maximum number of entries
-- Reply promoted entries, members removed for lack of an entry,
--       ms until the next one is due (-1: none waits)
--
-- An entry is also due if it lies further ahead than its own delay, because the clock was set back
-- since (clock-steps-are-harmless). Workers may have different longest delays, so ARGV 2 only
-- selects candidates.
--
-- The facts of the failure are merged in. All other fields are copied verbatim
-- (unknown-fields-travel).

local MAX_VALUES = 4000 -- limit of unpack; events have far fewer values
local incoming, retry, failures, suspects, exceptions = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, longest, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function text(number)
  return string.format('%.0f', number)
end

-- Returns the facts of a failure; empty if they cannot be read.
local function facts_of(id)
  local stored = redis.call('HGET', failures, id)
  local readable, facts = pcall(cjson.decode, stored or '')
  return readable and type(facts) == 'table' and facts or {}
end

local due = redis.call('ZRANGEBYSCORE', retry, '-inf', text(now), 'LIMIT', 0, limit)
if #due < limit then
  local ahead = redis.call('ZRANGEBYSCORE', retry, '(' .. text(now + longest), '+inf',
    'LIMIT', 0, limit - #due)
  for _, id in ipairs(ahead) do
    local delay = tonumber(facts_of(id).delay) or longest
    if tonumber(redis.call('ZSCORE', retry, id)) > now + delay then
      due[#due + 1] = id
    end
  end
end

local function merged(fields, facts)
  local out = {}
  for at = 1, #fields, 2 do
    local name = fields[at]
    out[at] = name
    out[at + 1] = facts[name] or fields[at + 1]
    facts[name] = nil
  end
  for _, name in ipairs({ 'attempt', 'first_failed_at', 'error_code', 'error', 'excused' }) do
    if facts[name] then
      out[#out + 1] = name
      out[#out + 1] = facts[name]
    end
  end
  return out
end

local moved, vanished = 0, 0
for _, id in ipairs(due) do
  local entry = redis.call('XRANGE', incoming, id, id)[1]
  if not entry then
    -- The entry was deleted by hand, so no result of the event will follow.
    local event = facts_of(id).event_id
    if event and redis.call('HGET', exceptions, event) == 'retrying' then
      redis.call('HDEL', exceptions, event)
    end
    redis.call('ZREM', retry, id)
    redis.call('HDEL', failures, id)
    redis.call('HDEL', suspects, id)
    vanished = vanished + 1
  elseif #entry[2] > MAX_VALUES then
    redis.call('ZADD', retry, text(now + longest), id)
  else
    local facts = facts_of(id)
    facts.delay, facts.event_id, facts.held = nil, nil, nil
    local fields = merged(entry[2], facts)
    redis.call('XADD', incoming, '*', unpack(fields))
    redis.call('XACK', incoming, group, id)
    redis.call('XDEL', incoming, id)
    redis.call('ZREM', retry, id)
    redis.call('HDEL', failures, id)
    redis.call('HDEL', suspects, id)
    moved = moved + 1
  end
end

local next_due = -1
local head = redis.call('ZRANGE', retry, 0, 0, 'WITHSCORES')
if head[1] then
  next_due = math.ceil(math.max(0, math.min(tonumber(head[2]) - now, longest)))
end
return { moved, vanished, next_due }
