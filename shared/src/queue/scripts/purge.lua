#!lua flags=allow-oom
-- Removes dead letters, and the dedup markers of those that existed. With its marker, a provider's
-- resend of a purged event would be dropped as a duplicate.
--
-- KEYS  1 dlq  2 exceptions  then one marker per dead letter that has one
-- ARGV  per dead letter: id, 1 if it has a marker, else 0
-- Reply one integer per dead letter: 1 removed, 0 it did not exist

-- Removes the event from the index, unless the index names another dead letter of it.
local function forget(id, fields)
  for at = 1, #fields, 2 do
    if fields[at] == 'event_id' then
      if redis.call('HGET', KEYS[2], fields[at + 1]) == 'dead:' .. id then
        redis.call('HDEL', KEYS[2], fields[at + 1])
      end
      return
    end
  end
end

local removed, next_key = {}, 3
for at = 1, #ARGV, 2 do
  local id = ARGV[at]
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local gone = redis.call('XDEL', KEYS[1], id)
  if gone == 1 then
    forget(id, entry[2])
  end
  if ARGV[at + 1] == '1' then
    if gone == 1 then
      redis.call('DEL', KEYS[next_key])
    end
    next_key = next_key + 1
  end
  removed[#removed + 1] = gone
end
return removed
