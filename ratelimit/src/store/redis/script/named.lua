-- The windows that are asked for by name: the images of counter.rs, gcra.rs and log.rs.

-- floor(a * b / d) and the rest, for a below 2^33 and d below 2^50: numbers here have 53 bits.
local function muldiv(a, b, d)
  local whole, r = a * floor(b / d), b % d
  local product = a * r
  if product < FOREVER then return whole + floor(product / d), product % d end
  local bit, n, rest = 1, 0, 0
  while bit * 2 <= a do bit = bit * 2 end
  while bit >= 1 do
    n, rest = n * 2, rest * 2
    if a >= bit then a, rest = a - bit, rest + r end
    while rest >= d do n, rest = n + 1, rest - d end
    bit = bit / 2
  end
  return whole + n, rest
end

-- What the two whose records are strings have in common: head, four or three words of their own, and until when
-- the key is blocked.
local function load_words(kind, key, of)
  local raw = get(key)
  if raw == nil then return nil end
  local s = { key = key, till = 0, kind = kind }
  if not raw then
    s.w = kind.fresh(of)
    return s
  end
  if #raw ~= kind.size or sub(raw, 1, 4) ~= kind.magic then return nil end
  s.w = { unpacks(kind.layout, raw, 5) }
  s.till, s.known = s.w[7], true
  if s.w[WIDTH] < 1 or s.w[LIMIT] < 1 then return nil end
  return s
end

local function save_words(s, ttl)
  local w = s.w
  call('SET', s.key, s.kind.magic .. pack(s.kind.layout, w[1], w[2], w[3], w[4], w[5], w[6], s.till), 'PX', ttl)
end

local function refund_words(kind, key, of, charged, units)
  local s = load_words(kind, key, of)
  if not s or not s.known or not same(s.w, of) then return end
  kind.give_back(s.w, charged, units)
  call('SET', key, kind.magic .. pack(kind.layout, unpack(s.w, 1, 7)), 'KEEPTTL')
end

-- Version, limit, width, then: the number of the newest bucket, the count of the one before it, its own.
local Counter = { magic = pack('<BBI2', MAGIC, 4, BUCKETS), layout = '<I4I4I8I8I4I4I8', size = 44 }

function Counter.fresh(of) return { of[1], of[2], of[3], 0, 0, 0 } end

function Counter.load(key, of) return load_words(Counter, key, of) end

local function weighed(newest, before, current, moment, window)
  local n, rest = muldiv(before, window - moment % window, window)
  return current + n + (rest > 0 and 1 or 0)
end

-- The record in the bucket of the present, the moment, and what counts.
function Counter.see(s)
  local w, window = s.w, s.w[WIDTH] * BUCKETS
  s.at = max(now, w[4] * window)
  s.newest = floor(s.at / window)
  s.before, s.current = 0, 0
  if s.newest == w[4] then s.before, s.current = w[5], w[6] end
  if s.newest == w[4] + 1 then s.before = w[6] end
  s.counted = weighed(s.newest, s.before, s.current, s.at, window)
end

function Counter.used(s)
  Counter.see(s)
  return s.counted
end

function Counter.take(s, of, used)
  local w = s.w
  if w[WIDTH] == of[3] then
    w[VERSION], w[LIMIT] = of[1], of[2]
  else
    s.w = { of[1], of[2], of[3], floor(s.at / (of[3] * BUCKETS)), 0, min(used, 4294967295) }
  end
end

function Counter.moment(s) return s.w[4] * s.w[WIDTH] * BUCKETS end

function Counter.ends(s) return (s.w[4] + 2) * s.w[WIDTH] * BUCKETS end

function Counter.whole(s) return 2 * s.w[WIDTH] * BUCKETS end

function Counter.left(s) return max(s.w[LIMIT] - s.counted, 0) end

-- How far into a bucket one must be for so many of the one before to count as no more than this.
local function shrinks_to(before, room, window)
  if before <= room then return 0 end
  return window - (muldiv(room, window, before))
end

function Counter.outcome(s, cost)
  local limit, window = s.w[LIMIT], s.w[WIDTH] * BUCKETS
  local function gone(current)
    if s.before == 0 and current == 0 then return 0 end
    return (s.newest + (current == 0 and 1 or 2)) * window - now
  end
  local left = limit - s.counted
  if cost <= left then return left - cost, gone(s.current + cost), 0 end
  if cost > limit then return max(left, 0), gone(s.current), FOREVER end
  local room, fits = limit - cost, nil
  if room >= s.current then
    fits = s.newest * window + shrinks_to(s.before, room - s.current, window)
  else
    fits = (s.newest + 1) * window + shrinks_to(s.current, room, window)
  end
  return max(left, 0), gone(s.current), fits - now
end

function Counter.charge(s, cost)
  local w = s.w
  w[4], w[5], w[6] = s.newest, s.before, min(s.current + cost, 4294967295)
  Counter.see(s)
end

function Counter.save(s, ttl) save_words(s, ttl) end

function Counter.give_back(w, moment, units)
  local bucket = floor(moment / (w[WIDTH] * BUCKETS))
  if bucket == w[4] then w[6] = max(w[6] - units, 0) end
  if bucket + 1 == w[4] then w[5] = max(w[5] - units, 0) end
end

function Counter.refund(key, of, moment, units) refund_words(Counter, key, of, moment, units) end

-- Version, limit, width, then: when it was last charged, and when all tokens are there again, in microseconds and,
-- for what is left of those, femtoseconds.
local Gcra = { magic = pack('<BBI2', MAGIC, 5, BUCKETS), layout = '<I4I4I8I8I8I4I8', size = 48 }
local FINE = 1000000000

function Gcra.fresh(of) return { of[1], of[2], of[3], 0, 0, 0 } end

function Gcra.load(key, of) return load_words(Gcra, key, of) end

-- How long a token takes to come, rounded up.
local function token(w)
  local window = w[3] * BUCKETS
  local fine, rest = muldiv(window % w[2], FINE, w[2])
  if rest > 0 then fine = fine + 1 end
  if fine == FINE then return floor(window / w[2]) + 1, 0 end
  return floor(window / w[2]), fine
end

local function plus(micros, fine, more, finer)
  fine = fine + finer
  if fine >= FINE then return micros + more + 1, fine - FINE end
  return micros + more, fine
end

local function minus(micros, fine, less, finer)
  if fine < finer then return micros - less - 1, fine + FINE - finer end
  return micros - less, fine - finer
end

local function later(micros, fine, than, finer)
  return micros > than or (micros == than and fine > finer)
end

-- n times as long, for n below 2^34.
local function times(n, micros, fine)
  local high = fine * floor(n / 65536)
  local low = (high % FINE) * 65536 + fine * (n % 65536)
  return n * micros + floor(high / FINE) * 65536 + floor(low / FINE), low % FINE
end

-- How many whole tokens come in a time, and whether nothing is over.
local function tokens_in(micros, fine, token_micros, token_fine)
  local n = floor((micros + fine / FINE) / (token_micros + token_fine / FINE))
  local took, finer = times(n, token_micros, token_fine)
  while later(took, finer, micros, fine) do
    n = n - 1
    took, finer = times(n, token_micros, token_fine)
  end
  local after, after_finer = plus(took, finer, token_micros, token_fine)
  while not later(after, after_finer, micros, fine) do
    n, took, finer = n + 1, after, after_finer
    after, after_finer = plus(took, finer, token_micros, token_fine)
  end
  return n, took == micros and finer == fine
end

function Gcra.see(s)
  local w = s.w
  s.at = max(now, w[4])
  s.full, s.fine = w[5], w[6]
  if s.full < s.at then s.full, s.fine = s.at, 0 end
  s.token, s.finer = token(w)
  -- A bucket that is full no sooner than then has no token.
  s.most, s.most_fine = plus(s.at, 0, times(w[LIMIT], s.token, s.finer))
end

function Gcra.used(s)
  Gcra.see(s)
  local n, even = tokens_in(s.full - s.at, s.fine, s.token, s.finer)
  return even and n or n + 1
end

function Gcra.take(s, of, used)
  local micros, fine = plus(s.at, 0, times(used, token(of)))
  s.w = { of[1], of[2], of[3], s.at, min(micros, FOREVER - 1), fine }
end

function Gcra.moment(s) return s.w[4] end

function Gcra.ends(s) return s.w[5] + 1 end

function Gcra.whole(s) return max(s.w[5] + 1 - s.w[4], 1) end

function Gcra.left(s)
  if later(s.full, s.fine, s.most, s.most_fine) then return 0 end
  local micros, fine = minus(s.most, s.most_fine, s.full, s.fine)
  return (tokens_in(micros, fine, s.token, s.finer))
end

function Gcra.outcome(s, cost)
  local function until_then(micros, fine) return max(micros - now, 0) + (fine > 0 and 1 or 0) end
  local left, limit = Gcra.left(s), s.w[LIMIT]
  if cost > limit then return left, until_then(s.full, s.fine), FOREVER end
  local full, fine = plus(s.full, s.fine, times(cost, s.token, s.finer))
  if not later(full, fine, s.most, s.most_fine) then return left - cost, until_then(full, fine), 0 end
  local at, finer = minus(full, fine, minus(s.most, s.most_fine, s.at, 0))
  return left, until_then(s.full, s.fine), until_then(at, finer)
end

function Gcra.charge(s, cost)
  local full, fine = plus(s.full, s.fine, times(cost, s.token, s.finer))
  s.w[4], s.w[5], s.w[6] = s.at, full, fine
  Gcra.see(s)
end

function Gcra.save(s, ttl) save_words(s, ttl) end

function Gcra.give_back(w, _, units)
  w[5], w[6] = minus(w[5], w[6], times(units, token(w)))
  if w[5] < 0 then w[5], w[6] = 0, 0 end
end

function Gcra.refund(key, of, moment, units) refund_words(Gcra, key, of, moment, units) end

-- A sorted set: moments, each with its units, by the moment; and before them, at -1, what is known of all. Version,
-- limit, width, then: the newest moment, the units of all, the oldest moment.
local Log = { magic = pack('<BBI2', MAGIC, 6, BUCKETS), layout = '<I4I4I8I8I8I8I8', size = 52 }

local function text(number) return format('%.0f', number) end

local function units_of(member) return (unpacks('<I4', member, 9)) end

local function moment_of(member) return (unpacks('>I8', member)) end

function Log.fresh(of) return { of[1], of[2], of[3], 0, 0, FOREVER } end

function Log.load(key, of)
  local first = redis.pcall('ZRANGE', key, '0', '0')
  if first.err then
    if sub(first.err, 1, 9) ~= 'WRONGTYPE' then error(first.err) end
    return nil
  end
  first = first[1]
  local s = { key = key, till = 0, kind = Log, cut = -1, added = 0, clear = not first }
  if not first then
    s.w = Log.fresh(of)
    return s
  end
  if #first ~= Log.size or sub(first, 1, 4) ~= Log.magic then return nil end
  s.w = { unpacks(Log.layout, first, 5) }
  s.till, s.known, s.first = s.w[7], true, first
  if s.w[WIDTH] < 1 then return nil end
  return s
end

-- What is no later than `dead` no longer counts. What was added in this call is not in the set yet.
function Log.see(s)
  local w = s.w
  s.at = max(now, w[4])
  local dead = max(s.at - w[WIDTH] * BUCKETS, s.cut)
  if dead ~= s.dead then
    s.dead, s.gone_units = dead, 0
    if not s.clear and w[6] <= dead then
      for _, member in ipairs(call('ZRANGEBYSCORE', s.key, '0', text(dead))) do
        s.gone_units = s.gone_units + units_of(member)
      end
    end
  end
end

function Log.used(s)
  Log.see(s)
  return s.w[5] - s.gone_units
end

function Log.take(s, of)
  -- A longer window may not count what the shorter one no longer did.
  s.cut = max(s.cut, s.dead)
  s.w[VERSION], s.w[LIMIT], s.w[WIDTH] = of[1], of[2], of[3]
end

function Log.moment(s) return s.w[4] end

function Log.ends(s) return s.w[4] + s.w[WIDTH] * BUCKETS end

function Log.whole(s) return s.w[WIDTH] * BUCKETS end

function Log.left(s) return max(s.w[LIMIT] - s.w[5] + s.gone_units, 0) end

function Log.outcome(s, cost)
  local w, used, window = s.w, s.w[5] - s.gone_units, s.w[WIDTH] * BUCKETS
  local function ends(at) return max(at + window - now, 0) end
  local left, reset = max(w[LIMIT] - used, 0), used > 0 and ends(w[4]) or 0
  if cost <= left then return left - cost, cost > 0 and ends(s.at) or reset, 0 end
  if cost > w[LIMIT] then return left, reset, FOREVER end
  local skip = 0
  while not s.clear do
    local some = call('ZRANGEBYSCORE', s.key, '(' .. text(s.dead), '+inf', 'LIMIT', skip, 64)
    for _, member in ipairs(some) do
      used = used - units_of(member)
      if used + cost <= w[LIMIT] then return left, reset, ends(moment_of(member)) end
    end
    if #some < 64 then break end
    skip = skip + 64
  end
  return left, reset, ends(w[4])
end

function Log.charge(s, cost)
  s.added = s.added + cost
  s.w[4], s.w[5] = s.at, s.w[5] + cost
end

local function first_of(w, till)
  return Log.magic .. pack(Log.layout, w[1], w[2], w[3], w[4], w[5], w[6], till)
end

function Log.save(s, ttl)
  local w, key = s.w, s.key
  if s.clear then
    call('DEL', key)
  else
    call('ZREMRANGEBYSCORE', key, '-inf', text(s.dead))
    w[5] = w[5] - s.gone_units
  end
  if s.added > 0 then
    local at, units = text(s.at), s.added
    local there = call('ZRANGEBYSCORE', key, at, at)[1]
    if there then
      call('ZREM', key, there)
      units = min(units + units_of(there), 4294967295)
    end
    call('ZADD', key, at, pack('>I8', s.at) .. pack('<I4', units))
  end
  local oldest = call('ZRANGE', key, '0', '0')[1]
  w[6] = oldest and moment_of(oldest) or FOREVER
  call('ZADD', key, '-1', first_of(w, s.till))
  call('PEXPIRE', key, ttl)
end

function Log.refund(key, of, moment, units)
  local s = Log.load(key, of)
  if not s or not s.known or not same(s.w, of) then return end
  local at = text(moment)
  local there = call('ZRANGEBYSCORE', key, at, at)[1]
  if not there or #there ~= 12 then return end
  local charged = units_of(there)
  units = min(units, charged)
  if units == 0 then return end
  s.w[5] = s.w[5] - units
  call('ZADD', key, '-1', first_of(s.w, s.till))
  call('ZREM', key, s.first, there)
  if charged > units then call('ZADD', key, at, pack('>I8', moment) .. pack('<I4', charged - units)) end
end
