-- The strict sliding window for all rules of one request: checks all, then charges all.
-- The image of window.rs: a change of either is a change of both.
--
-- KEYS  one for each rule, all in one slot
-- ARGV  the time in microseconds, or '' for the server's; then for each rule: version, limit,
--       microseconds to a bucket, cost, and 1 for a shadow, which keeps nobody out
-- Reply for each rule: limit, remaining, reset, wait (microseconds; wait 0 passes, -1 never does);
--       or a single number: the rule under whose key lies something else

local BUCKETS, SLOTS = 16, 17
local MAGIC, FORM, SIZE = 83, 1, 96
local LAYOUT = '<BBHI4I4I8I8I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4'
-- Where things are in an unpacked record; the count of bucket n is at COUNTS + n % SLOTS.
local VERSION, LIMIT, WIDTH, NEWEST, COUNTS = 4, 5, 6, 7, 8

local function fresh(version, limit, width)
  return { MAGIC, FORM, SLOTS, version, limit, width, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
end

local function unpacked(raw)
  if #raw ~= SIZE then return nil end
  local w = { struct.unpack(LAYOUT, raw) }
  if w[1] ~= MAGIC or w[2] ~= FORM or w[3] ~= SLOTS or w[WIDTH] < 1 then return nil end
  return w
end

local function packed(w)
  return struct.pack(LAYOUT, unpack(w, 1, COUNTS + BUCKETS))
end

local function bucket_at(w, now)
  return math.max(math.floor(now / w[WIDTH]), w[NEWEST])
end

local function free_at(w, bucket)
  return (bucket + 1 + BUCKETS) * w[WIDTH]
end

local function advance(w, bucket)
  local newest = w[NEWEST]
  for n = math.max(newest + 1, bucket - BUCKETS), bucket do
    w[COUNTS + n % SLOTS] = 0
  end
  w[NEWEST] = bucket
end

local function sum(w)
  local used = 0
  for at = COUNTS, COUNTS + BUCKETS do used = used + w[at] end
  return used
end

local function advanced(w, now)
  local at = { unpack(w, 1, COUNTS + BUCKETS) }
  advance(at, bucket_at(w, now))
  return at
end

local function recut(w, version, limit, width, now)
  local from = advanced(w, now)
  local latest = math.max(now, w[NEWEST] * w[WIDTH])
  local into = fresh(version, limit, width)
  for n = math.max(from[NEWEST] - BUCKETS, 0), from[NEWEST] do
    local count = from[COUNTS + n % SLOTS]
    if count > 0 then
      local bucket = math.floor(math.min((n + 1) * w[WIDTH] - 1, latest) / width)
      advance(into, bucket)
      local at = COUNTS + bucket % SLOTS
      into[at] = math.min(into[at] + count, 4294967295)
    end
  end
  return into
end

-- The newest version of the terms wins; the second result says that it is new to the record.
local function renewed(w, version, limit, width, now)
  if w[VERSION] == version and w[LIMIT] == limit and w[WIDTH] == width then return w, false end
  if sum(advanced(w, now)) == 0 then return fresh(version, limit, width), false end
  if version < w[VERSION] then return w, false end
  local newer = version > w[VERSION]
  if w[WIDTH] == width then
    w[VERSION], w[LIMIT] = version, limit
    return w, newer
  end
  w = recut(w, version, limit, width, now)
  if sum(advanced(w, now)) == 0 then return fresh(version, limit, width), false end
  return w, newer
end

-- Of a window that was advanced to the moment; `charged` is its newest charged bucket.
local function outcome(w, now, charged, cost)
  local used, limit = sum(w), w[LIMIT]
  local left = math.max(limit - used, 0)
  if cost <= left then
    local reset = 0
    if cost > 0 then
      reset = free_at(w, w[NEWEST]) - now
    elseif used > 0 then
      reset = free_at(w, charged) - now
    end
    return { limit, left - cost, reset, 0 }
  end
  local reset = 0
  if used > 0 then reset = free_at(w, charged) - now end
  if cost > limit then return { limit, left, reset, -1 } end
  local bucket = math.max(w[NEWEST] - BUCKETS, 0)
  while bucket < w[NEWEST] do
    used = used - w[COUNTS + bucket % SLOTS]
    if used + cost <= limit then break end
    bucket = bucket + 1
  end
  return { limit, left, reset, free_at(w, bucket) - now }
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local rules, fits = {}, true
for i = 1, #KEYS do
  local version, limit = tonumber(ARGV[5 * i - 3]), tonumber(ARGV[5 * i - 2])
  local width, cost = tonumber(ARGV[5 * i - 1]), tonumber(ARGV[5 * i])
  local raw = redis.pcall('GET', KEYS[i])
  local w, newer = nil, false
  if type(raw) == 'table' then
    if string.sub(raw.err, 1, 9) == 'WRONGTYPE' then return { i } end
    return raw
  elseif raw then
    w = unpacked(raw)
    if not w then return { i } end
    w, newer = renewed(w, version, limit, width, now)
  else
    w = fresh(version, limit, width)
  end

  local rule = { cost = cost, charged = w[NEWEST] }
  -- The longest that anything charged by now has to be remembered, in milliseconds.
  rule.whole = math.ceil((BUCKETS + 1) * w[WIDTH] / 1000)
  -- The clock stepped back behind the record. Its time does not, but then it may outlive itself by
  -- the length of the step; so its key must not live longer than a window from now.
  rule.behind = math.floor(now / w[WIDTH]) < w[NEWEST]
  if newer then rule.renewed = packed(w) end
  advance(w, bucket_at(w, now))
  rule.w = w
  rule.outcome = outcome(w, now, rule.charged, cost)
  if rule.behind then
    local ttl = redis.call('PTTL', KEYS[i])
    if ttl < 0 or ttl > rule.whole then
      rule.cut = true
      ttl = rule.whole
    end
    rule.gone = (ttl + 1) * 1000
  end
  rule.passes = rule.outcome[4] == 0
  fits = fits and (rule.passes or ARGV[5 * i + 1] == '1')
  rules[i] = rule
end

local reply = {}
for i = 1, #KEYS do
  local rule = rules[i]
  local w = rule.w
  if fits and rule.passes and rule.cost > 0 then
    local at = COUNTS + w[NEWEST] % SLOTS
    w[at] = w[at] + rule.cost
    local ttl = math.ceil((free_at(w, w[NEWEST]) - now) / 1000)
    if rule.behind then
      ttl = rule.whole
      rule.gone = (ttl + 1) * 1000
    end
    redis.call('SET', KEYS[i], packed(w), 'PX', ttl)
  else
    if not fits and rule.passes then
      rule.outcome = outcome(w, now, rule.charged, 0)
    end
    if rule.renewed then
      local ttl = math.ceil((free_at(w, rule.charged) - now) / 1000)
      if rule.behind then ttl = math.min(ttl, rule.whole) end
      redis.call('SET', KEYS[i], rule.renewed, 'PX', ttl)
    elseif rule.cut then
      redis.call('PEXPIRE', KEYS[i], rule.whole)
    end
  end
  local out = rule.outcome
  if rule.behind then
    out[3] = math.min(out[3], rule.gone)
    if out[4] > 0 then out[4] = math.min(out[4], rule.gone) end
  end
  for n = 1, 4 do reply[#reply + 1] = out[n] end
end
return reply
