-- The strict sliding window for a batch of requests: each is checked under all its rules, then charged under
-- all of them. The image of window.rs: a change of either is a change of both.
--
-- KEYS  the node's lane; then those of the refunds, of the groups, and of the items; all in one slot
-- ARGV  1 the time in microseconds, or '' for the server's
--       2 the number of the batch in its lane, or '' if it has none
--       3 terms, each: version, limit, microseconds to a bucket
--       4 refunds, each: terms, bucket, units
--       5 groups of keys of which each is asked for by requests that are all alike, under one rule; each:
--         terms, cost, requests to a key, units to lease to each, for how many microseconds, keys
--       6 items, each: what to do (decide 0, reset 1, block 2, unblock 3, lease 4), an argument, requests, rules; then for each rule: key, terms, cost, shadow
-- Reply  the time, then what `simple` and `item` say below, packed

local BUCKETS = 16
local MAGIC, FORM, BLOCKED, SIZE, FOREVER = 83, 2, 3, 108, 9007199254740992
local HEAD, COUNTS, LAYOUT = '<BBI2I4I4I8', '<I8I8I4I4', '<I4I4I8I8I8I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4'
local EMPTY = string.rep('\0', 4 * BUCKETS)
-- Where things are in an unpacked record; the count of bucket n of the past is at PAST + n % BUCKETS.
local VERSION, LIMIT, WIDTH, NEWEST, TOTAL, CURRENT, AHEAD, PAST = 1, 2, 3, 4, 5, 6, 7, 8
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local pack, unpacks, sub = struct.pack, struct.unpack, string.sub

-- A command that was sent again does nothing again.
local number = tonumber(ARGV[2])
if number then
  local last = redis.call('GET', KEYS[1])
  if last then
    local before = unpacks('<I8', last)
    if before == number then return sub(last, 9) end
    if before > number then return redis.error_reply('STALE a later batch of this node was there before') end
  end
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local terms = {}
for at = 1, #ARGV[3], 16 do
  local version, limit, width = unpacks('<I4I4I8', ARGV[3], at)
  terms[#terms + 1] = { version, limit, width, pack(HEAD, MAGIC, FORM, BUCKETS, version, limit, width) }
end

local function fresh(of)
  return { of[1], of[2], of[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
end

local function free_at(width, bucket)
  return (bucket + 1 + BUCKETS) * width
end

-- How long a key lives whose record's time is this bucket: as long as the next one counts, to which leases
-- may be charged at any time. In milliseconds.
local function life(width, bucket)
  return ceil((free_at(width, bucket + 1) - now) / 1000)
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

local function recut(w, of)
  local from, into, width = advanced(w), fresh(of), of[3]
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

-- The newest version of the terms wins; the second result says that it is new to the record.
local function renewed(w, of)
  if w[VERSION] == of[1] and w[LIMIT] == of[2] and w[WIDTH] == of[3] then return w, false end
  if advanced(w)[TOTAL] == 0 then return fresh(of), false end
  if of[1] < w[VERSION] then return w, false end
  local newer = of[1] > w[VERSION]
  if w[WIDTH] == of[3] then
    w[VERSION], w[LIMIT] = of[1], of[2]
    return w, newer
  end
  w = recut(w, of)
  if advanced(w)[TOTAL] == 0 then return fresh(of), false end
  return w, newer
end

-- A key as a whole, under terms; nothing if something else lies there.
local function load(key, of, raw)
  if raw == nil then raw = redis.pcall('GET', key) end
  if type(raw) == 'table' then
    if sub(raw.err, 1, 9) == 'WRONGTYPE' then return nil end
    error(raw.err)
  end
  local s = { key = key, till = 0 }
  if raw then
    if #raw ~= SIZE and #raw ~= SIZE + 8 then return nil end
    local magic, form, buckets = unpacks('<BBI2', raw)
    if magic ~= MAGIC or buckets ~= BUCKETS or form ~= (#raw == SIZE and FORM or BLOCKED) then return nil end
    s.w = { unpacks(LAYOUT, raw, 5) }
    s.w[PAST + BUCKETS] = nil
    if s.w[WIDTH] < 1 then return nil end
    if form == BLOCKED then s.till = unpacks('<I8', raw, SIZE + 1) end
    s.known = true
  else
    s.w = fresh(of)
  end
  return s
end

local function set_terms(s, of)
  local newer
  s.w, newer = renewed(s.w, of)
  s.newer = s.newer or newer
  -- Whether the record goes by the terms of who asks.
  s.asked = s.w[VERSION] == of[1] and s.w[LIMIT] == of[2] and s.w[WIDTH] == of[3]
  local w = s.w
  s.last = w[NEWEST] + (w[AHEAD] > 0 and 1 or 0)
  -- The longest that anything charged by now has to be remembered.
  s.whole = ceil((BUCKETS + 1 + (w[AHEAD] > 0 and 1 or 0)) * w[WIDTH] / 1000)
  -- The clock stepped back behind the record. Its time does not, but then it may outlive itself by
  -- the length of the step; so its key must not live longer than a window from now.
  s.behind = s.known and floor(now / w[WIDTH]) < w[NEWEST]
  if s.behind and not s.gone then
    local ttl = redis.call('PTTL', s.key)
    if ttl < 0 or ttl > s.whole then s.cut, ttl = true, s.whole end
    s.gone = (ttl + 1) * 1000
  end
  s.a = advanced(w)
end

local function store(s)
  local w, ttl = s.w, nil
  local blocked = s.till > now
  if s.behind then ttl = s.whole else ttl = life(w[WIDTH], w[NEWEST]) end
  if not s.dirty and not s.newer then
    if s.cut and not blocked then redis.call('PEXPIRE', s.key, s.whole) end
    return
  end
  if w[TOTAL] == 0 and not blocked then
    redis.call('DEL', s.key)
    return
  end
  local raw = pack('<BBI2', MAGIC, blocked and BLOCKED or FORM, BUCKETS) .. pack(LAYOUT, unpack(w, 1, PAST + BUCKETS - 1))
  if blocked then
    raw = raw .. pack('<I8', s.till)
    ttl = max(ttl, ceil((s.till - now) / 1000))
  end
  redis.call('SET', s.key, raw, 'PX', max(ttl, 1))
end

-- What a request would be told: units left, time until all are back, wait.
local function outcome(s, cost)
  local a, limit = s.a, s.a[LIMIT]
  local used, reset, wait = a[TOTAL], 0, 0
  local left = max(limit - used, 0)
  if cost <= left then
    if cost > 0 then
      reset = free_at(a[WIDTH], max(a[NEWEST], s.last)) - now
    elseif used > 0 then
      reset = free_at(a[WIDTH], s.last) - now
    end
    left = left - cost
  else
    if used > 0 then reset = free_at(a[WIDTH], s.last) - now end
    if cost > limit then
      wait = FOREVER
    else
      local bucket = max(a[NEWEST] - BUCKETS, 0)
      while bucket < s.last do
        used = used - count(a, bucket)
        if used + cost <= limit then break end
        bucket = bucket + 1
      end
      wait = free_at(a[WIDTH], bucket) - now
    end
  end
  if s.behind then
    reset = min(reset, s.gone)
    if wait < FOREVER then wait = min(wait, s.gone) end
  end
  return left, reset, wait
end

local function charge(s, cost)
  if cost == 0 then return end
  add(s.a, CURRENT, cost)
  s.w, s.dirty, s.last = s.a, true, max(s.last, s.a[NEWEST])
  if s.behind then s.gone = (s.whole + 1) * 1000 end
end

-- Requests that are all alike, under each of some rules: as many pass as have room under all that are no
-- shadows. Says how many; and for each rule whether its key is blocked, its limit, the units left before them, how many
-- were charged, until when all is back for these, and the same again for one that was not charged, with its wait.
local function decide(rules, requests)
  local passing = requests
  for _, r in ipairs(rules) do
    local s = r.s
    r.left = max(s.a[LIMIT] - s.a[TOTAL], 0)
    r.room = r.cost > 0 and floor(r.left / r.cost) or requests
    if s.till > now then r.room = 0 end
    if not r.shadow then passing = min(passing, r.room) end
  end
  local said = { pack('<I4', passing) }
  for i, r in ipairs(rules) do
    local s, reset, _ = r.s, 0, nil
    local charged = min(passing, r.room)
    if charged > 0 then
      _, reset = outcome(s, r.cost)
      charge(s, charged * r.cost)
    end
    local left, reset_after, wait = 0, 0, 0
    if charged < requests then
      left, reset_after, wait = outcome(s, r.cost)
      if wait == 0 then left, reset_after = outcome(s, 0) end
      if s.till > now then
        left, reset_after = outcome(s, 0)
        wait = s.till - now
      end
    end
    local blocked = s.till > now and 1 or 0
    said[i + 1] = pack('<BI4I4I4I8I4I8I8', blocked, s.a[LIMIT], r.left, charged, reset, left, reset_after, wait)
  end
  return table.concat(said), passing
end

local reply = { pack('<I8', now) }
local at, key = 1, 2

while at <= #ARGV[4] do
  local of, bucket, units
  of, bucket, units, at = unpacks('<I2I8I4', ARGV[4], at)
  local raw = redis.pcall('GET', KEYS[key])
  -- What has another window by now is not what was charged.
  if type(raw) == 'string' and #raw >= SIZE and sub(raw, 1, 1) == '\83' and sub(raw, 13, 20) == sub(terms[of][4], 13, 20) then
    local newest, total, current, ahead = unpacks(COUNTS, raw, 21)
    local age = newest - bucket
    if age == 0 then
      units = min(units, current)
      current = current - units
    elseif age == -1 then
      units = min(units, ahead)
      ahead = ahead - units
    elseif age > 0 and age <= BUCKETS then
      local place = 44 + 4 * (bucket % BUCKETS)
      local charged = unpacks('<I4', raw, place + 1)
      units = min(units, charged)
      if units > 0 then redis.call('SETRANGE', KEYS[key], place, pack('<I4', charged - units)) end
    else
      units = 0
    end
    if units > 0 then redis.call('SETRANGE', KEYS[key], '20', pack(COUNTS, newest, total - units, current, ahead)) end
  end
  key = key + 1
end

at = 1
while at <= #ARGV[5] do
  local of, cost, requests, extra, time, keys
  of, cost, requests, extra, time, keys, at = unpacks('<I2I4I4I4I8I2', ARGV[5], at)
  of = terms[of]
  local version, limit, width, head = of[1], of[2], of[3], of[4]
  local bucket, need = floor(now / width), cost * requests
  -- As text: a number as an argument of a command takes longer to convert than the command to run.
  local ttl = string.format('%.0f', life(width, bucket))
  -- A lease is charged to the bucket in which it ends, which is this one or the next.
  local later = floor((now + time) / width) - bucket
  local leases = extra > 0 and later <= 1
  local first, all_left

  -- Says 1, or 2 if units are charged ahead, and the units left before, if all pass under just these
  -- terms; 3 for a foreign value; else 0 and what `decide` says. And then the units leased, if any were asked for.
  local function simple(k)
    local raw = redis.pcall('GET', k)
    local newest, total, current, ahead, gone
    if raw == false then
      newest, total, current, ahead, gone = bucket, 0, 0, 0, EMPTY
      if not leases and need <= limit then
        if not first then
          first = head .. pack(COUNTS, bucket, need, need, 0) .. EMPTY
          all_left = pack('<BI4', 1, limit)
        end
        redis.call('SET', k, first, 'PX', ttl)
        return all_left
      end
    elseif type(raw) == 'string' and #raw == SIZE and sub(raw, 1, 20) == head then
      newest, total, current, ahead = unpacks(COUNTS, raw, 21)
      if newest == bucket - 1 then
        local place = 45 + 4 * (newest % BUCKETS)
        total = total - unpacks('<I4', raw, place)
        gone = sub(raw, 45, place - 1) .. pack('<I4', current) .. sub(raw, place + 4)
        current, ahead = ahead, 0
      elseif newest < bucket - 1 - BUCKETS then
        newest, total, current, ahead, gone = bucket, 0, 0, 0, EMPTY
      elseif newest ~= bucket then
        newest = nil
      end
    end
    if newest and need <= limit - total then
      local left, leased = limit - total, 0
      if leases then
        leased = min(extra, floor((left - need) / 2))
        if later == 1 then ahead = ahead + leased else current = current + leased end
      end
      local counts = pack(COUNTS, bucket, total + need + leased, current + need, ahead)
      if gone then
        redis.call('SET', k, head .. counts .. gone, 'PX', ttl)
      else
        redis.call('SETRANGE', k, '20', counts)
      end
      local said = pack('<BI4', ahead > 0 and 2 or 1, left)
      if extra > 0 then said = said .. pack('<I4', leased) end
      return said
    end
    local s = load(k, of, raw)
    if not s then return '\3' end
    set_terms(s, of)
    local said, passing = decide({ { s = s, cost = cost } }, requests)
    local leased = 0
    if leases and passing == requests and not s.behind and s.asked then
      leased = min(extra, floor((limit - s.a[TOTAL]) / 2))
      if leased > 0 then
        add(s.a, later == 1 and AHEAD or CURRENT, leased)
        s.w, s.dirty = s.a, true
      end
    end
    store(s)
    said = '\0' .. said
    if extra > 0 then said = said .. pack('<I4', leased) end
    return said
  end

  for k = key, key + keys - 1 do reply[#reply + 1] = simple(KEYS[k]) end
  key = key + keys
end

-- Keys of several items are loaded once and written once.
local loaded, order = {}, {}
at = 1
while at <= #ARGV[6] do
  local act, argument, requests, size
  act, argument, requests, size, at = unpacks('<BI8I4B', ARGV[6], at)
  local rules, foreign = {}, nil
  for i = 1, size do
    local k, of, cost, shadow
    k, of, cost, shadow, at = unpacks('<I2I2I4B', ARGV[6], at)
    local s = loaded[k]
    if s == nil then
      s = load(KEYS[key + k], terms[of]) or false
      loaded[k] = s
      if s then order[#order + 1] = s end
    end
    if s then set_terms(s, terms[of]) elseif not foreign then foreign = i end
    rules[i] = { s = s, cost = cost, shadow = shadow == 1 }
  end
  -- Says 3 and the rule under whose key something else lies; else 0 and, if it was to decide, what `decide` says,
  -- or, if it was to lease, the units.
  local said
  if foreign then
    said = pack('<BB', 3, foreign)
  elseif act == 0 then
    said = '\0' .. decide(rules, requests)
  elseif act == 4 then
    -- Units to lease, without a request.
    local s, leased = rules[1].s, 0
    local a, later = s.a, floor((now + argument) / s.a[WIDTH]) - s.a[NEWEST]
    if s.asked and later <= 1 and not s.behind and s.till <= now then
      leased = min(requests, floor(max(a[LIMIT] - a[TOTAL], 0) / 2))
      if leased > 0 then
        add(a, later == 1 and AHEAD or CURRENT, leased)
        s.w, s.dirty = a, true
      end
    end
    said = pack('<BI4', 0, leased)
  else
    local s = rules[1].s
    if act == 1 then
      s.w = fresh({ s.w[VERSION], s.w[LIMIT], s.w[WIDTH] })
      s.known, s.behind = false, false
      s.a = advanced(s.w)
    elseif act == 2 then
      s.till = now + argument
    else
      s.till = 0
    end
    s.dirty = true
    said = '\0'
  end
  reply[#reply + 1] = said
end
for _, s in ipairs(order) do store(s) end

local said = table.concat(reply)
if number then redis.call('SET', KEYS[1], pack('<I8', number) .. said, 'PX', '60000') end
return said
