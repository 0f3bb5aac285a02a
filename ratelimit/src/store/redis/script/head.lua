-- What all parts of the script use.

local BUCKETS = 16
local MAGIC, FORM, BLOCKED, FOREVER = 83, 2, 3, 9007199254740992
-- A strict record: head and counts, and then the past, which is left out where nothing is in it.
local SHORT, SIZE = 44, 108
local HEAD, COUNTS, LAYOUT = '<BBI2I4I4I8', '<I8I8I4I4', '<I4I4I8I8I8I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4'
-- Where things are in an unpacked record; the count of bucket n of the past is at PAST + n % BUCKETS.
local VERSION, LIMIT, WIDTH, NEWEST, TOTAL, CURRENT, AHEAD, PAST = 1, 2, 3, 4, 5, 6, 7, 8
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local pack, unpacks, sub, format = struct.pack, struct.unpack, string.sub, string.format
local call = redis.call

-- The time of the server; and the one to go by, which tests set.
local wall = call('TIME')
wall = wall[1] * 1000000 + wall[2]
local now = tonumber(ARGV[1]) or wall

-- Nothing, so many times.
local function empty(counts)
  return string.rep('\0', 4 * counts)
end

