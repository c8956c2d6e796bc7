#!lua flags=allow-oom
-- Moves dead letters back to incoming with attempt 1 and one more replay.
--
-- The facts of the failure are dropped; all other fields, above all `origin`, are copied verbatim.
-- Dedup markers are ignored, because the event is known.
--
-- KEYS  1 dlq  2 incoming  3 counters  4 exceptions
-- ARGV  1 maximum number of entries in incoming
--       2 number of edited fields, then their names and values, then ids
-- Reply per id: the new id, 0 no such dead letter (or more fields than a script can move),
--       1 incoming is at the maximum. 0 and 1 change nothing

local MAX_VALUES = 4000 -- limit of unpack
local MAX_ID_BYTES = 256 -- longer ids are not indexed
local DROPPED = { error_code = true, error = true, attempts = true, first_failed_at = true,
  failed_at = true, worker = true, source_id = true }
local limit, edits = tonumber(ARGV[1]), tonumber(ARGV[2])
local length = redis.call('XLEN', KEYS[2])

local function restored(fields)
  local set, order = { attempt = '1', replays = '1' }, { 'attempt', 'replays' }
  for at = 3, 2 + edits * 2, 2 do
    if not set[ARGV[at]] then
      order[#order + 1] = ARGV[at]
    end
    set[ARGV[at]] = ARGV[at + 1]
  end
  local out = {}
  for at = 1, #fields, 2 do
    local name, value = fields[at], fields[at + 1]
    if name == 'replays' then
      set.replays = string.format('%.0f', (tonumber(value) or 0) + 1)
    elseif not DROPPED[name] then
      out[#out + 1] = name
      out[#out + 1] = set[name] or value
      set[name] = nil
    end
  end
  for _, name in ipairs(order) do
    if set[name] then
      out[#out + 1] = name
      out[#out + 1] = set[name]
    end
  end
  return out
end

local function event_id(fields)
  for at = 1, #fields, 2 do
    if fields[at] == 'event_id' then
      local id = fields[at + 1]
      return #id > 0 and #id <= MAX_ID_BYTES and id or nil
    end
  end
end

local outcomes, total = {}, 0
for at = 3 + edits * 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at])[1]
  if not entry or #entry[2] > MAX_VALUES then
    outcomes[#outcomes + 1] = 0
  elseif length >= limit then
    outcomes[#outcomes + 1] = 1
  else
    outcomes[#outcomes + 1] = redis.call('XADD', KEYS[2], '*', unpack(restored(entry[2])))
    local event = event_id(entry[2])
    if event then
      -- The marker may be gone, and then only the index shows that the event is queued.
      redis.call('HSET', KEYS[4], event, 'pending')
    end
    redis.call('XDEL', KEYS[1], ARGV[at])
    length = length + 1
    total = total + 1
  end
end
if total > 0 then
  redis.call('HINCRBY', KEYS[3], 'replayed', total)
end
return outcomes
