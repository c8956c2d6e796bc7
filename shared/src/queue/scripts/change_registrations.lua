#!lua flags=allow-oom
-- Changes the registrations if their version is still the one that the caller has read. Version and
-- changes are one write, so no change overwrites one that its caller has not seen.
--
-- KEYS  1 registrations
-- ARGV  1 version that was read, or '' if there was none  2 next version
--       3 maximum number of fields, the version included
--       then per change: field, value or '' to remove the field
-- Reply 1 changed, 0 another version is current, -1 too many fields. 0 and -1 change nothing

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
