#!lua flags=allow-oom
-- Moves entries to the dead letters with the facts of their failure, and publishes the results of
-- awaited events.
--
-- All other fields are copied verbatim (unknown-fields-travel). `reply_to` is dropped, because no
-- replica waits for the event any more. A dead-letter stream at its bound refuses: the event stays
-- in the retry set with the longest delay.
--
-- KEYS  1 incoming  2 dlq  3 retry  4 failures  5 suspects  6 counters  7 exceptions
--       then one result key per awaited event
-- ARGV  1 group  2 consumer  3 bound of the dead letters  4 worker
--       then per entry: id, error_code, error, attempts, first_failed_at or '', channel or '',
--         reply or ''
-- Reply one integer per entry: 0 moved, 1 the dead letters are at their bound,
--       2 the entry does not exist or is not pending for this consumer. 1 and 2 change nothing

local MAX_VALUES = 4000 -- limit of unpack; more pairs are packed into one field
local MAX_ID_BYTES = 256 -- longer ids are not indexed
local RESULT_TTL_S = 60 -- see reply.rs
local REPLACED_FIELDS = { error_code = true, error = true, attempts = true, first_failed_at = true,
  failed_at = true, worker = true, source_id = true, replays = true, reply_to = true,
  excused = true }
local group, consumer, limit, worker = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local length = redis.call('XLEN', KEYS[2])

local function dead_letter(id, fields, at)
  local first, replays = ARGV[at + 4], '0'
  local out = {}
  for field = 1, #fields, 2 do
    local name, value = fields[field], fields[field + 1]
    if name == 'replays' then
      replays = value
    elseif name == 'first_failed_at' and first == '' then
      first = value
    elseif not REPLACED_FIELDS[name] then
      out[#out + 1] = name
      out[#out + 1] = value
    end
  end
  if #out > MAX_VALUES then
    out = { 'raw_msgpack', cmsgpack.pack(out) }
  end
  if first == '' then
    first = now
  end
  local facts = { 'error_code', ARGV[at + 1], 'error', ARGV[at + 2], 'attempts', ARGV[at + 3],
    'first_failed_at', first,
    'failed_at', now, 'worker', worker, 'source_id', id, 'replays', replays }
  for _, fact in ipairs(facts) do
    out[#out + 1] = fact
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

local outcomes, total, next_key = {}, 0, 8
for at = 5, #ARGV, 7 do
  local id = ARGV[at]
  local held = redis.call('XPENDING', KEYS[1], group, id, id, 1, consumer)
  local entry = #held == 1 and redis.call('XRANGE', KEYS[1], id, id)[1]
  local channel, result = ARGV[at + 5], nil
  if channel ~= '' then
    result = KEYS[next_key]
    next_key = next_key + 1
  end
  if not entry then
    outcomes[#outcomes + 1] = 2
  elseif length >= limit then
    outcomes[#outcomes + 1] = 1
  else
    local dead = redis.call('XADD', KEYS[2], '*', unpack(dead_letter(id, entry[2], at)))
    local event = event_id(entry[2])
    if event then
      redis.call('HSET', KEYS[7], event, 'dead:' .. dead)
    end
    redis.call('XACK', KEYS[1], group, id)
    redis.call('XDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[3], id)
    redis.call('HDEL', KEYS[4], id)
    redis.call('HDEL', KEYS[5], id)
    if result then
      -- Permissions may forbid this. The entry is moved nevertheless.
      redis.pcall('SET', result, ARGV[at + 6], 'EX', RESULT_TTL_S)
      redis.pcall('PUBLISH', channel, ARGV[at + 6])
    end
    length = length + 1
    total = total + 1
    outcomes[#outcomes + 1] = 0
  end
end
if total > 0 then
  redis.call('HINCRBY', KEYS[6], 'dead_lettered', total)
end
return outcomes
