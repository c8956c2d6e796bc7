#!lua flags=allow-oom
-- Assigns a queue to every destination, by its URL. A queue that was assigned once keeps its URL.
-- Allowed on a full Redis: without a queue a worker cannot deliver, and so cannot free memory.
--
-- KEYS  1 URLs: queue -> fingerprint of its URL, a blank, host
-- ARGV  per destination: name, fingerprint, host
-- Reply the queue of each destination, in order; then all of the hash as it is now, flat
--
-- A destination takes the queue of its own name if that has its URL, else any other queue that has:
-- its position in a list may have changed. Else it takes a new one, of its own name if possible.

local PRINT = 32 -- hex digits of a fingerprint
local LONGEST = 64 -- bytes of a name
local urls = KEYS[1]

local known, order = {}, {}
local stored = redis.call('HGETALL', urls)
for at = 1, #stored, 2 do
  known[stored[at]] = string.sub(stored[at + 1], 1, PRINT)
  order[#order + 1] = stored[at]
end
table.sort(order)

local assigned, taken = {}, {}
local function assign(position, queue)
  assigned[position] = queue
  taken[queue] = true
end

local count = #ARGV / 3
for position = 1, count do
  local name, print = ARGV[position * 3 - 2], ARGV[position * 3 - 1]
  if known[name] == print then
    assign(position, name)
  end
end
for position = 1, count do
  local print = ARGV[position * 3 - 1]
  for _, queue in ipairs(order) do
    if not assigned[position] and known[queue] == print and not taken[queue] then
      assign(position, queue)
    end
  end
end
for position = 1, count do
  if not assigned[position] then
    local name, print, host = ARGV[position * 3 - 2], ARGV[position * 3 - 1], ARGV[position * 3]
    local queue, digits = name, 8
    while known[queue] do
      digits = digits + 4
      queue = string.sub(name, 1, LONGEST - digits - 1) .. '-' .. string.sub(print, 1, digits)
      if digits > PRINT then
        return redis.error_reply('ERR no name is free for the queue of ' .. name)
      end
    end
    redis.call('HSET', urls, queue, print .. ' ' .. host)
    known[queue] = print
    assign(position, queue)
  end
end
return { assigned, redis.call('HGETALL', urls) }
