-- What all parts of the script use. It is there twice: what is shared with a function that is made anew for each call
-- has to be closed again after it, at the price of some decisions.

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

