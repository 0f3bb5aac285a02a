-- A batch of requests: each is checked under all its rules, then charged under all of them.
--
-- KEYS  the node's lane; then those of the refunds, of the groups, and of the items; all in one slot
-- ARGV  1 the time in microseconds, or '' for the server's
--       2 the number of the batch in its lane, or '' if it has none
--       3 terms, each: version, limit, microseconds to a bucket, kind of window (strict 0, log 1, counter 2, gcra 3)
--       4 refunds, each: terms, what was charged (the bucket; the moment, where the kind has no such), units
--       5 groups of keys of which each is asked for by requests that are all alike, under one strict rule; each:
--         terms, cost, requests to a key, units to lease to each, for how many microseconds, keys, whether most of
--         them are likely to be new
--       6 items, each: what to do (decide 0, reset 1, block 2, unblock 3, lease 4), an argument, requests, rules;
--         then for each rule: key, terms, cost, shadow
-- Reply  the time, then what the groups and the items say below, packed

-- The time of the server; and the one to go by, which tests set.
local wall = call('TIME')
wall = wall[1] * 1000000 + wall[2]
local now = tonumber(ARGV[1]) or wall

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
  terms[#terms + 1] = { version, limit, width, pack(HEAD, MAGIC, FORM, BUCKETS, version, limit, width), kind }
end

-- The rules as a whole, once they are asked for: what most calls need is below, and making some dozen functions for
-- each call costs more than twenty decisions. So there is no function here that could do without.
local all
local reply, at, key = { pack('<I8', now) }, 1, 2

while at <= #ARGV[4] do
  local of, charged, units
  of, charged, units, at = unpacks('<I2I8I4', ARGV[4], at)
  of = terms[of]
  all = all or rules(now)
  all.kinds[of[5]].refund(KEYS[key], of, charged, units)
  key = key + 1
end

at = 1
while at <= #ARGV[5] do
  local of, cost, requests, extra, time, keys, new
  of, cost, requests, extra, time, keys, new, at = unpacks('<I2I4I4I4I8I2B', ARGV[5], at)
  of = terms[of]
  local version, limit, width, head = of[1], of[2], of[3], of[4]
  local bucket, need = floor(now / width), cost * requests
  -- As text: a number as an argument of a command takes longer to convert than the command to run.
  local life = ceil(((bucket + 2 + BUCKETS) * width - now) / 1000)
  local ttl, deadline = format('%.0f', life), format('%.0f', ceil(wall / 1000) + life)
  -- A lease is charged to the bucket in which it ends, which is this one or the next.
  local later = floor((now + time) / width) - bucket
  local leases = extra > 0 and later <= 1
  local first, all_left, made
  -- Where something lies that is no string this says nothing, as where nothing lies. What is new is not asked for
  -- at first, but tried.
  local raws = new == 0 and call('MGET', unpack(KEYS, key, key + keys - 1))

  -- Says 1, or 2 if units are charged ahead, and the units left before, if all pass under just these
  -- terms; 3 for a foreign value; else 0 and what `decide` says. And then the units leased, if any were asked for.
  for n = 1, keys do
    local k, raw, said = KEYS[key + n - 1], raws and raws[n], nil
    if not raw then
      if need <= limit then
        if not first then
          local leased = leases and min(extra, floor((limit - need) / 2)) or 0
          local beyond = later == 1 and leased or 0
          first = head .. pack(COUNTS, bucket, need + leased, need + leased - beyond, beyond)
          all_left = pack('<BI4', beyond > 0 and 2 or 1, limit)
          if extra > 0 then all_left = all_left .. pack('<I4', leased) end
        end
        -- There may be something that is no string. The first is made by two commands, of which one names a moment: `SET PX`
        -- takes longer. Those after it are as it is, and a copy brings its time along in one command.
        if made then
          if call('COPY', made, k) == 1 then said = all_left end
        elseif call('SETNX', k, first) == 1 then
          call('PEXPIREAT', k, deadline)
          said, made = all_left, k
        end
      end
      if not said then raw = redis.pcall('GET', k) end
    end
    local newest, total, current, ahead, past
    if not said and type(raw) == 'string' and (#raw == SHORT or #raw == SIZE) and sub(raw, 1, 20) == head then
      newest, total, current, ahead = unpacks(COUNTS, raw, 21)
      local age = bucket - newest
      if age > 0 then
        local place = 4 * (newest % BUCKETS)
        if age > BUCKETS + 1 then
          total, current, ahead, past = 0, 0, 0, ''
        elseif #raw == SHORT and (age == 1 or (ahead == 0 and age <= BUCKETS)) then
          past = string.rep('\0', place) .. pack('<I4', current) .. string.rep('\0', 4 * BUCKETS - 4 - place)
          current, ahead = ahead, 0
        elseif age == 1 then
          total = total - unpacks('<I4', raw, 45 + place)
          past = sub(raw, 45, 44 + place) .. pack('<I4', current) .. sub(raw, 49 + place)
          current, ahead = ahead, 0
        else
          local w = { unpacks(LAYOUT, #raw == SHORT and raw .. string.rep('\0', 4 * BUCKETS) or raw, 5) }
          all = all or rules(now)
          all.advance(w, bucket)
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
      said = pack('<BI4', ahead > 0 and 2 or 1, left)
      if extra > 0 then said = said .. pack('<I4', leased) end
    elseif not said then
      all = all or rules(now)
      local s = all.kinds[0].load(k, of, type(raw) == 'string' and raw or nil)
      if s then
        all.set_terms(s, of)
        local decided, passing = all.decide({ { s = s, cost = cost } }, requests)
        local leased = 0
        if leases and passing == requests and not s.behind and s.asked then
          leased = min(extra, floor((limit - s.a[TOTAL]) / 2))
          if leased > 0 then
            all.add(s.a, later == 1 and AHEAD or CURRENT, leased)
            s.w, s.dirty = s.a, true
          end
        end
        all.store(s)
        said = '\0' .. decided
        if extra > 0 then said = said .. pack('<I4', leased) end
      else
        said = '\3'
      end
    end
    reply[#reply + 1] = said
  end
  key = key + keys
end

-- Keys of several items are loaded once and written once.
local loaded, order = {}, {}
if #ARGV[6] > 0 then all = all or rules(now) end
at = 1
while at <= #ARGV[6] do
  local act, argument, requests, size
  act, argument, requests, size, at = unpacks('<BI8I4B', ARGV[6], at)
  local asked, foreign = {}, nil
  for i = 1, size do
    local k, of, cost, shadow
    k, of, cost, shadow, at = unpacks('<I2I2I4B', ARGV[6], at)
    local s = loaded[k]
    if s == nil then
      s = all.kinds[terms[of][5]].load(KEYS[key + k], terms[of]) or false
      loaded[k] = s
      if s then order[#order + 1] = s end
    end
    if s then all.set_terms(s, terms[of]) elseif not foreign then foreign = i end
    asked[i] = { s = s, cost = cost, shadow = shadow == 1 }
  end
  -- Says 3 and the rule under whose key something else lies; else 0 and, if it was to decide, what `decide` says,
  -- or, if it was to lease, the units.
  local said
  if foreign then
    said = pack('<BB', 3, foreign)
  elseif act == 0 then
    said = '\0' .. all.decide(asked, requests)
  elseif act == 4 then
    -- Units to lease, without a request.
    local s, leased = asked[1].s, 0
    local a, later = s.a, floor((now + argument) / s.a[WIDTH]) - s.a[NEWEST]
    if s.asked and later <= 1 and not s.behind and s.till <= now then
      leased = min(requests, floor(max(a[LIMIT] - a[TOTAL], 0) / 2))
      if leased > 0 then
        all.add(a, later == 1 and AHEAD or CURRENT, leased)
        s.w, s.dirty = a, true
      end
    end
    said = pack('<BI4', 0, leased)
  else
    local s = asked[1].s
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
for _, s in ipairs(order) do all.store(s) end

local said = table.concat(reply)
if number then call('SET', KEYS[1], pack('<I8', number) .. said, 'PX', '60000') end
return said
