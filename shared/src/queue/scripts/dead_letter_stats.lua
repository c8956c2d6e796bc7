#!lua flags=no-writes
-- Counts a few dead letters in place, so that counting a million transfers no bodies. The cost
-- depends on the entries examined only.
--
-- KEYS  1 dlq
-- ARGV  1 id to continue after, or '' at the beginning  2 last id to count, or ''
--       3 maximum number of entries to examine
-- Reply number of dead letters, last id or '' (both now), id to continue after or '' at the end,
--       entries counted, bytes of their fields, least and greatest time of death or '',
--       then two flat lists of name and count: by error code, by event type
--       ('' for a dead letter without that field)

local MAX_NAME_BYTES = 256 -- senders choose event types
local limit = tonumber(ARGV[3])
local length = redis.call('XLEN', KEYS[1])
local tail = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = tail and tail[1] or ''
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local to = ARGV[2] == '' and '+' or ARGV[2]
local entries = redis.call('XRANGE', KEYS[1], from, to, 'COUNT', limit)

local bytes, oldest, newest = 0, nil, nil
local codes, types = {}, {}
for _, entry in ipairs(entries) do
  local fields = entry[2]
  local code, kind, died
  for at = 1, #fields, 2 do
    local name, value = fields[at], fields[at + 1]
    bytes = bytes + #name + #value
    if name == 'error_code' then
      code = code or value
    elseif name == 'event_type' then
      kind = kind or value
    elseif name == 'failed_at' then
      died = died or tonumber(value)
    end
  end
  died = died or tonumber(string.match(entry[1], '^%d+'))
  if not oldest or died < oldest then
    oldest = died
  end
  if not newest or died > newest then
    newest = died
  end
  code, kind = string.sub(code or '', 1, MAX_NAME_BYTES), string.sub(kind or '', 1, MAX_NAME_BYTES)
  codes[code] = (codes[code] or 0) + 1
  types[kind] = (types[kind] or 0) + 1
end

local function flat(counts)
  local out = {}
  for name, count in pairs(counts) do
    out[#out + 1] = name
    out[#out + 1] = count
  end
  return out
end
local function text(number)
  return number and string.format('%.0f', number) or ''
end
return {
  length, last, #entries < limit and '' or entries[#entries][1], #entries, bytes,
  text(oldest), text(newest),
  flat(codes), flat(types),
}
