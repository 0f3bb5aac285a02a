-- A batch of requests: each is checked under all its rules, then charged under all of them.
--
-- KEYS  the node's lane; then those of the refunds, of the groups, and of the items; all in one slot
-- ARGV  1 the time in microseconds, or '' for the server's
--       2 the number of the batch in its lane, or '' if it has none
--       3 terms, each: version, limit, microseconds to a bucket, kind of window (strict 0, log 1, counter 2, gcra 3)
--       4 refunds, each: terms, what was charged (the bucket; the moment, where the kind has no such), units
--       5 groups of keys of which each is asked for by requests that are all alike, under one strict rule; each:
--         terms, cost, requests to a key, units to lease to each, for how many microseconds, keys
--       6 items, each: what to do (decide 0, reset 1, block 2, unblock 3, lease 4), an argument, requests, rules;
--         then for each rule: key, terms, cost, shadow
-- Reply  the time, then what `simple` and the items say below, packed

local KINDS = { [0] = Strict, Log, Counter, Gcra }

-- A command that was sent again does nothing again.
local number = tonumber(ARGV[2])
if number then
  local last = call('GET', KEYS[1])
  if last then
    local before = unpacks('<I8', last)
    if before == number then return sub(last, 9) end
    if before > number then return redis.error_reply('STALE a later batch of this node was there before') end
  end
end

local terms = {}
for at = 1, #ARGV[3], 17 do
  local version, limit, width, kind = unpacks('<I4I4I8B', ARGV[3], at)
  terms[#terms + 1] = { version, limit, width, pack(HEAD, MAGIC, FORM, BUCKETS, version, limit, width), KINDS[kind] }
end

-- Puts terms in force: the newest version of them wins.
local function set_terms(s, of)
  local kind = s.kind
  if not same(s.w, of) then
    local used = kind.used(s)
    if used == 0 then
      -- Nothing counts any more, so there is nothing to carry over.
      s.w, s.clear, s.dead = kind.fresh(of), true, nil
    elseif of[1] >= s.w[VERSION] then
      local newer = of[1] > s.w[VERSION]
      if not kind.take(s, of, used) then s.newer = s.newer or newer end
    end
  end
  -- Whether the record goes by the terms of who asks.
  s.asked = same(s.w, of)
  s.whole = ceil(kind.whole(s) / 1000)
  -- The clock stepped back behind the record. Its time does not, but then it may outlive itself by
  -- the length of the step; so its key must not live longer than a window from now.
  s.behind = s.known and now < kind.moment(s)
  if s.behind and not s.gone then
    local ttl = call('PTTL', s.key)
    if ttl < 0 or ttl > s.whole then s.cut_short, ttl = true, s.whole end
    s.gone = (ttl + 1) * 1000
  end
  kind.see(s)
end

local function store(s)
  local kind, ttl = s.kind, s.whole
  local blocked = s.till > now
  if not s.dirty and not s.newer then
    if s.cut_short and not blocked then call('PEXPIRE', s.key, s.whole) end
    return
  end
  if not blocked and kind.used(s) == 0 then
    call('DEL', s.key)
    return
  end
  if not s.behind then ttl = ceil((kind.ends(s) - now) / 1000) end
  if blocked then ttl = max(ttl, ceil((s.till - now) / 1000)) end
  kind.save(s, format('%.0f', max(ttl, 1)))
end

-- What a request would be told: units left, time until all are back, wait.
local function outcome(s, cost)
  local left, reset, wait = s.kind.outcome(s, cost)
  if s.behind then
    reset = min(reset, s.gone)
    if wait < FOREVER then wait = min(wait, s.gone) end
  end
  return left, reset, wait
end

local function charge(s, cost)
  if cost == 0 then return end
  s.kind.charge(s, cost)
  s.dirty, s.whole = true, ceil(s.kind.whole(s) / 1000)
  if s.behind then s.gone = (s.whole + 1) * 1000 end
end

-- Requests that are all alike, under each of some rules: as many pass as have room under all that are no
-- shadows. Says how many; and for each rule whether its key is blocked, its limit, the units left before them, how many
-- were charged, until when all is back for these, and the same again for one that was not charged, with its wait.
local function decide(rules, requests)
  local passing = requests
  for _, r in ipairs(rules) do
    local s = r.s
    r.left = s.kind.left(s)
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
    said[i + 1] = pack('<BI4I4I4I8I4I8I8', blocked, s.w[LIMIT], r.left, charged, reset, left, reset_after, wait)
  end
  return table.concat(said), passing
end

local reply = { pack('<I8', now) }
local at, key = 1, 2

while at <= #ARGV[4] do
  local of, charged, units
  of, charged, units, at = unpacks('<I2I8I4', ARGV[4], at)
  of = terms[of]
  of[5].refund(KEYS[key], of, charged, units)
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
  local life = ceil((free_at(width, bucket + 1) - now) / 1000)
  local ttl, deadline = format('%.0f', life), format('%.0f', ceil(wall / 1000) + life)
  -- A lease is charged to the bucket in which it ends, which is this one or the next.
  local later = floor((now + time) / width) - bucket
  local leases = extra > 0 and later <= 1
  local first, all_left

  -- Says 1, or 2 if units are charged ahead, and the units left before, if all pass under just these
  -- terms; 3 for a foreign value; else 0 and what `decide` says. And then the units leased, if any were asked for.
  local function simple(k, raw)
    local newest, total, current, ahead, past
    if raw == false then
      if need <= limit then
        if not first then
          local leased = leases and min(extra, floor((limit - need) / 2)) or 0
          local beyond = later == 1 and leased or 0
          first = head .. pack(COUNTS, bucket, need + leased, need + leased - beyond, beyond)
          all_left = pack('<BI4', beyond > 0 and 2 or 1, limit)
          if extra > 0 then all_left = all_left .. pack('<I4', leased) end
        end
        -- There may be something that is no string. Two commands, and a moment: `SET PX` takes longer.
        if call('SETNX', k, first) == 1 then
          call('PEXPIREAT', k, deadline)
          return all_left
        end
      end
      raw = nil
    elseif (#raw == SHORT or #raw == SIZE) and sub(raw, 1, 20) == head then
      newest, total, current, ahead = unpacks(COUNTS, raw, 21)
      local age = bucket - newest
      if age > 0 then
        local place = 4 * (newest % BUCKETS)
        if age > BUCKETS + 1 then
          total, current, ahead, past = 0, 0, 0, ''
        elseif #raw == SHORT and (age == 1 or (ahead == 0 and age <= BUCKETS)) then
          past = sub(EMPTY, 1, place) .. pack('<I4', current) .. sub(EMPTY, place + 5)
          current, ahead = ahead, 0
        elseif age == 1 then
          total = total - unpacks('<I4', raw, 45 + place)
          past = sub(raw, 45, 44 + place) .. pack('<I4', current) .. sub(raw, 49 + place)
          current, ahead = ahead, 0
        else
          local w = { unpacks(LAYOUT, #raw == SHORT and raw .. EMPTY or raw, 5) }
          advance(w, bucket)
          total, current, ahead = w[TOTAL], w[CURRENT], w[AHEAD]
          past = pack('<I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4', unpack(w, PAST, PAST + BUCKETS - 1))
        end
      elseif age < 0 then
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
      if past then
        call('SET', k, head .. counts .. past, 'PX', ttl)
      else
        call('SETRANGE', k, '20', counts)
      end
      local said = pack('<BI4', ahead > 0 and 2 or 1, left)
      if extra > 0 then said = said .. pack('<I4', leased) end
      return said
    end
    local s = Strict.load(k, of, raw)
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

  -- Where something lies that is no string it says nothing, as where nothing lies.
  local raws, from = call('MGET', unpack(KEYS, key, key + keys - 1)), #reply
  for n = 1, keys do reply[from + n] = simple(KEYS[key + n - 1], raws[n]) end
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
      s = terms[of][5].load(KEYS[key + k], terms[of]) or false
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
      s.w, s.clear, s.dead, s.added = s.kind.fresh({ s.w[VERSION], s.w[LIMIT], s.w[WIDTH] }), true, nil, 0
      s.known, s.behind = false, false
      s.kind.see(s)
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
if number then call('SET', KEYS[1], pack('<I8', number) .. said, 'PX', '60000') end
return said
