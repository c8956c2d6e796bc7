#!lua flags=allow-oom
-- Removes dead letters and, of those that were there, the duplicate markers: else the provider's resend of a purged
-- event would vanish (rule 30).
--
-- KEYS  1 dlq  2 exceptions  then one marker per dead letter that has one
-- ARGV  per dead letter: id, has a marker (0|1)
-- Reply one integer per dead letter: 1 removed, 0 there was none

-- No event counts as dead by this letter any more; another letter of the same event may speak for it.
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
