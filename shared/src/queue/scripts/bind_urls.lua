#!lua flags=allow-oom
-- Assigns queues to destinations by receiver: URL and scope. An assigned queue keeps its receiver.
--
-- This runs on a full Redis: without a queue a worker cannot deliver, and so cannot free memory.
--
-- KEYS  1 hash of these fields:
--         queue -> fingerprint of the URL, host, scope, number of the assignment
--         =fingerprint scope -> queue whose state (pause, 410, busy) applies to that receiver
--         #configured, #registered -> set once destinations of that kind were assigned
-- ARGV  1 kinds to mark as assigned, even without a destination: '', 'c' or 'cr'
--       2 number of occupied names, or '?' if unknown; then these names
--       then per destination: name, scope, kind (c or r), fingerprint, host
-- Reply the queue of each destination; the queue that has its state; the whole hash, flat.
--       All three are empty if a new queue is needed and the occupied names are unknown
--
-- The scope is the destination's name, or * if the URL alone identifies it. Queues of a receiver
-- are used in the order of their assignment, so that no position in a list decides. A queue of an
-- earlier release has no URL. The first destinations of a kind may take its name.

local FINGERPRINT_DIGITS = 32
local MAX_NAME_BYTES = 64
local ARGS_PER_DESTINATION = 5
local urls = KEYS[1]

local known, order, states, last = {}, {}, {}, 0
local stored = redis.call('HGETALL', urls)
for at = 1, #stored, 2 do
  local field, value = stored[at], stored[at + 1]
  local first = string.sub(field, 1, 1)
  if first == '=' then
    states[string.sub(field, 2)] = value
  elseif first ~= '#' then
    local fingerprint, scope, number = string.match(value, '^(%x+) %S* (%S+) (%d+)$')
    known[field] = fingerprint and fingerprint .. ' ' .. scope or ''
    number = tonumber(number) or 0
    last = math.max(last, number)
    order[#order + 1] = { field, number }
  end
end
table.sort(order, function(a, b)
  if a[2] ~= b[2] then
    return a[2] < b[2]
  end
  return a[1] < b[1]
end)

local occupied = {}
local named = tonumber(ARGV[2]) or 0
for at = 3, named + 2 do
  occupied[ARGV[at]] = true
end
local adopting = {
  c = redis.call('HEXISTS', urls, '#configured') == 0,
  r = redis.call('HEXISTS', urls, '#registered') == 0,
}

local first, assigned, taken = named + 3, {}, {}
local count = (#ARGV - first + 1) / ARGS_PER_DESTINATION
local function destination(position)
  local at = first + (position - 1) * ARGS_PER_DESTINATION
  return ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
end
for position = 1, count do
  local _, scope, _, fingerprint = destination(position)
  for _, queue in ipairs(order) do
    local matches = known[queue[1]] == fingerprint .. ' ' .. scope
    if not assigned[position] and matches and not taken[queue[1]] then
      assigned[position] = queue[1]
      taken[queue[1]] = true
    end
  end
  if not assigned[position] and ARGV[2] == '?' then
    return { {}, {}, {} }
  end
end
local homes = {}
for position = 1, count do
  local name, scope, kind, fingerprint, host = destination(position)
  if not assigned[position] then
    local queue, digits = name, 8
    while known[queue] or occupied[queue] and not (queue == name and adopting[kind]) do
      digits = digits + 4
      local prefix = string.sub(name, 1, MAX_NAME_BYTES - digits - 1)
      queue = prefix .. '-' .. string.sub(fingerprint, 1, digits)
      if digits > FINGERPRINT_DIGITS then
        return redis.error_reply('ERR no name is free for the queue of ' .. name)
      end
    end
    last = last + 1
    redis.call('HSET', urls, queue, fingerprint .. ' ' .. host .. ' ' .. scope .. ' ' .. last)
    known[queue] = fingerprint .. ' ' .. scope
    assigned[position] = queue
  end
  local receiver = fingerprint .. ' ' .. scope
  if not states[receiver] then
    states[receiver] = assigned[position]
    redis.call('HSET', urls, '=' .. receiver, assigned[position])
  end
  homes[position] = states[receiver]
  redis.call('HSETNX', urls, kind == 'r' and '#registered' or '#configured', '1')
end
for kind, mark in pairs({ c = '#configured', r = '#registered' }) do
  if string.find(ARGV[1], kind, 1, true) then
    redis.call('HSETNX', urls, mark, '1')
  end
end
return { assigned, homes, redis.call('HGETALL', urls) }
