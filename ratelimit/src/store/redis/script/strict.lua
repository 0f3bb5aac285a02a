-- The strict sliding window: the image of window.rs, and a change of either is a change of both.

-- Nothing, so many times.
local function empty(counts)
  return string.rep('\0', 4 * counts)
end

-- What lies under a key: false for nothing, and nil for something that is not even a string.
local function get(key)
  local raw = redis.pcall('GET', key)
  if type(raw) ~= 'table' then return raw end
  if sub(raw.err, 1, 9) ~= 'WRONGTYPE' then error(raw.err) end
  return nil
end

local function same(w, of)
  return w[VERSION] == of[1] and w[LIMIT] == of[2] and w[WIDTH] == of[3]
end

local function free_at(width, bucket)
  return (bucket + 1 + BUCKETS) * width
end

local function count(w, bucket)
  local age = w[NEWEST] - bucket
  if age == 0 then return w[CURRENT] end
  if age == -1 then return w[AHEAD] end
  if age > 0 and age <= BUCKETS then return w[PAST + bucket % BUCKETS] end
  return 0
end

local function advance(w, bucket)
  if bucket - w[NEWEST] > BUCKETS + 1 then
    for at = TOTAL, PAST + BUCKETS - 1 do w[at] = 0 end
    w[NEWEST] = bucket
    return
  end
  for n = w[NEWEST], bucket - 1 do
    local at = PAST + n % BUCKETS
    w[TOTAL] = w[TOTAL] - w[at]
    w[at] = w[CURRENT]
    w[CURRENT], w[AHEAD], w[NEWEST] = w[AHEAD], 0, n + 1
  end
end

local function advanced(w)
  local a = { unpack(w, 1, PAST + BUCKETS - 1) }
  advance(a, max(floor(now / w[WIDTH]), w[NEWEST]))
  return a
end

local function add(w, at, units)
  units = min(units, 4294967295 - w[at])
  w[at], w[TOTAL] = w[at] + units, w[TOTAL] + units
end

local Strict = {}

function Strict.fresh(of)
  return { of[1], of[2], of[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
end

local function recut(w, of)
  local from, into, width = advanced(w), Strict.fresh(of), of[3]
  local latest = max(now, w[NEWEST] * w[WIDTH])
  for n = max(from[NEWEST] - BUCKETS, 0), from[NEWEST] do
    local charged = count(from, n)
    if charged > 0 then
      advance(into, floor(min((n + 1) * w[WIDTH] - 1, latest) / width))
      add(into, CURRENT, charged)
    end
  end
  if from[AHEAD] > 0 then
    advance(into, max(floor(latest / width), into[NEWEST]))
    local ends = floor(((from[NEWEST] + 2) * w[WIDTH] - 1) / width)
    add(into, ends > into[NEWEST] and AHEAD or CURRENT, from[AHEAD])
  end
  return into
end

-- A key as a whole; nothing if something else lies there.
function Strict.load(key, of, raw)
  if raw == nil then raw = get(key) end
  if raw == nil then return nil end
  local s = { key = key, till = 0, kind = Strict }
  if not raw then
    s.w = Strict.fresh(of)
    return s
  end
  if #raw == SHORT then raw = raw .. empty(BUCKETS) end
  if #raw ~= SIZE and #raw ~= SIZE + 8 then return nil end
  local magic, form, buckets = unpacks('<BBI2', raw)
  if magic ~= MAGIC or buckets ~= BUCKETS or form ~= (#raw == SIZE and FORM or BLOCKED) then return nil end
  s.w = { unpacks(LAYOUT, raw, 5) }
  s.w[PAST + BUCKETS] = nil
  if s.w[WIDTH] < 1 then return nil end
  if form == BLOCKED then s.till = unpacks('<I8', raw, SIZE + 1) end
  s.known = true
  return s
end

function Strict.used(s)
  return advanced(s.w)[TOTAL]
end

function Strict.take(s, of)
  if s.w[WIDTH] == of[3] then
    s.w[VERSION], s.w[LIMIT] = of[1], of[2]
  else
    s.w = recut(s.w, of)
    -- All of it may be older than the new window.
    if Strict.used(s) == 0 then
      s.w = Strict.fresh(of)
      return true
    end
  end
end

function Strict.see(s)
  s.a = advanced(s.w)
  s.last = s.w[NEWEST] + (s.w[AHEAD] > 0 and 1 or 0)
end

function Strict.moment(s)
  return s.w[NEWEST] * s.w[WIDTH]
end

-- The key lives as long as the next bucket counts, to which leases may be charged at any time.
function Strict.ends(s)
  return free_at(s.w[WIDTH], s.w[NEWEST] + 1)
end

-- The longest that anything charged by now has to be remembered, in microseconds.
function Strict.whole(s)
  return (BUCKETS + 1 + (s.w[AHEAD] > 0 and 1 or 0)) * s.w[WIDTH]
end

function Strict.left(s)
  return max(s.a[LIMIT] - s.a[TOTAL], 0)
end

function Strict.outcome(s, cost)
  local a, limit = s.a, s.a[LIMIT]
  local used, reset, wait = a[TOTAL], 0, 0
  local left = max(limit - used, 0)
  if cost <= left then
    if cost > 0 then
      reset = free_at(a[WIDTH], max(a[NEWEST], s.last)) - now
    elseif used > 0 then
      reset = free_at(a[WIDTH], s.last) - now
    end
    return left - cost, reset, 0
  end
  if used > 0 then reset = free_at(a[WIDTH], s.last) - now end
  if cost > limit then return left, reset, FOREVER end
  local bucket = max(a[NEWEST] - BUCKETS, 0)
  while bucket < s.last do
    used = used - count(a, bucket)
    if used + cost <= limit then break end
    bucket = bucket + 1
  end
  return left, reset, free_at(a[WIDTH], bucket) - now
end

function Strict.charge(s, cost)
  add(s.a, CURRENT, cost)
  s.w, s.last = s.a, max(s.last, s.a[NEWEST])
end

function Strict.save(s, ttl)
  local w, blocked = s.w, s.till > now
  local raw = pack('<BBI2', MAGIC, blocked and BLOCKED or FORM, BUCKETS) .. pack(LAYOUT, unpack(w, 1, PAST + BUCKETS - 1))
  if blocked then
    raw = raw .. pack('<I8', s.till)
  elseif w[TOTAL] == w[CURRENT] + w[AHEAD] then
    raw = sub(raw, 1, SHORT)
  end
  call('SET', s.key, raw, 'PX', ttl)
end

-- Takes units back from a bucket, as far as they are there and the window is still the same.
function Strict.refund(key, of, bucket, units)
  local raw = get(key)
  if not raw or (#raw ~= SHORT and #raw ~= SIZE and #raw ~= SIZE + 8) then return end
  if sub(raw, 1, 1) ~= '\83' or sub(raw, 13, 20) ~= sub(of[4], 13, 20) then return end
  local newest, total, current, ahead = unpacks(COUNTS, raw, 21)
  local age = newest - bucket
  if age == 0 then
    units = min(units, current)
    current = current - units
  elseif age == -1 then
    units = min(units, ahead)
    ahead = ahead - units
  elseif age > 0 and age <= BUCKETS and #raw > SHORT then
    local place = 44 + 4 * (bucket % BUCKETS)
    local charged = unpacks('<I4', raw, place + 1)
    units = min(units, charged)
    if units > 0 then call('SETRANGE', key, place, pack('<I4', charged - units)) end
  else
    units = 0
  end
  if units > 0 then call('SETRANGE', key, '20', pack(COUNTS, newest, total - units, current, ahead)) end
end
