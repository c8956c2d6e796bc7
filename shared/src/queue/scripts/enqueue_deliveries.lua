#!lua
-- Enqueues deliveries to one destination.
--
-- This script has no allow-oom: it creates several entries from one event, and may wait
-- (moves-run-when-full).
--
-- KEYS  1 outgoing  2 its dead letters  3 its state  4 counters
--       [5 destinations, if ARGV 4 is not empty]  then one mark per delivery
-- ARGV  1 bound of the queue  2 bound of the dead letters  3 wire version
--       4 name of the queue, or ''  5 TTL of a mark in s
--       then per delivery: id, event_type, occurred_at, origin, body, hops, traceparent or ''
-- Reply one integer per delivery: 0 queued, 1 queued before,
--       2 dead letter, because the queue is at its bound or not a stream,
--       3 counted as overflow, because the dead letters are at their bound too
--
-- The mark keeps a worker that was killed between this call and its acknowledgement from enqueueing
-- a delivery twice. After the mark's TTL receivers recognize a repetition by the delivery's id.

local outgoing, dlq, state, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local bound, dead_letter_bound = tonumber(ARGV[1]), tonumber(ARGV[2])
local version, name, ttl = ARGV[3], ARGV[4], ARGV[5]
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local first_mark = name == '' and 5 or 6

-- Counts a key of another type as full, so that a damaged destination does not delay others.
local function entries(key)
  local number = redis.pcall('XLEN', key)
  return type(number) == 'number' and number or math.huge
end

local length, dead_letters = entries(outgoing), entries(dlq)
if name ~= '' and length == 0 then
  redis.pcall('SADD', KEYS[5], name)
end

local outcomes, position = {}, 0
for at = 6, #ARGV, 7 do
  local mark = KEYS[first_mark + position]
  position = position + 1
  local fields = { 'v', version, 'event_id', ARGV[at], 'event_type', ARGV[at + 1],
    'occurred_at', ARGV[at + 2], 'received_at', now, 'attempt', '1', 'origin', ARGV[at + 3],
    'body', ARGV[at + 4], 'hops', ARGV[at + 5] }
  if ARGV[at + 6] ~= '' then
    fields[#fields + 1] = 'traceparent'
    fields[#fields + 1] = ARGV[at + 6]
  end
  if redis.call('EXISTS', mark) == 1 then
    outcomes[position] = 1
  elseif length < bound then
    redis.call('XADD', outgoing, '*', unpack(fields))
    redis.call('SET', mark, '1', 'EX', ttl)
    length = length + 1
    outcomes[position] = 0
  elseif dead_letters < dead_letter_bound then
    local reason = length == math.huge and 'destination queue is not a stream'
      or 'destination queue is full'
    local facts = { 'error_code', 'overflow', 'error', reason,
      'attempts', '0', 'first_failed_at', now, 'failed_at', now, 'worker', '',
      'source_id', '0-0', 'replays', '0' }
    for _, fact in ipairs(facts) do
      fields[#fields + 1] = fact
    end
    redis.call('XADD', dlq, '*', unpack(fields))
    redis.call('SET', mark, '1', 'EX', ttl)
    redis.pcall('HINCRBY', counters, 'dead_lettered', 1)
    dead_letters = dead_letters + 1
    outcomes[position] = 2
  else
    redis.pcall('HINCRBY', state, 'overflow', 1)
    redis.pcall('HSETNX', state, 'overflow_first', ARGV[at])
    redis.pcall('HSET', state, 'overflow_last', ARGV[at])
    redis.call('SET', mark, '1', 'EX', ttl)
    outcomes[position] = 3
  end
end
return outcomes
