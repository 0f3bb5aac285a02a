-- What is decided about requests, whatever the kind of their windows.

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

return {
  kinds = { [0] = Strict, Log, Counter, Gcra },
  set_terms = set_terms,
  store = store,
  decide = decide,
  advance = advance,
  add = add,
}
