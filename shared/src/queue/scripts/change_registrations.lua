#!lua flags=allow-oom
-- Changes what is registered, if it still is what the caller looked at: version and change are one write, so nobody
-- overwrites a change that he has not seen, and no change goes unseen (rule 20).
--
-- KEYS  1 registrations
-- ARGV  1 the version that was looked at, empty: there was none  2 the next version  3 most fields, the version included
--       then per change: field, its value or empty to remove it
-- Reply 1 changed, 0 another version stands there, -1 over the bound; nothing was changed in either case

local now = redis.call('HGET', KEYS[1], '#version') or ''
if now ~= ARGV[1] then
  return 0
end
local fields, counted = redis.call('HLEN', KEYS[1]), {}
if now == '' then
  fields = fields + 1
end
for at = 4, #ARGV, 2 do
  if not counted[ARGV[at]] then
    counted[ARGV[at]] = true
    local there = redis.call('HEXISTS', KEYS[1], ARGV[at])
    if ARGV[at + 1] == '' then
      fields = fields - there
    else
      fields = fields + 1 - there
    end
  end
end
if fields > tonumber(ARGV[3]) and fields > redis.call('HLEN', KEYS[1]) then
  return -1
end
for at = 4, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  else
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  end
end
redis.call('HSET', KEYS[1], '#version', ARGV[2])
return 1
