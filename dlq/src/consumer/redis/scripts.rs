//! The scripts of a consumer: each over keys of one slot, and each may be sent twice.

use seawall_redis::Script;

/// What is held back by key: the hash `held` has for a key the message that those of it wait for, by its origin where it is
/// dead and by its entry where it is not. A message is late if its key is held and not by itself.
macro_rules! is_late {
    () => {
        r"
local function is_late(held, id, fields)
  local key, origin
  for i = 1, #fields, 2 do
    if fields[i] == 'key' and not key then
      key = fields[i + 1]
    elseif fields[i] == 'seawall-origin' then
      origin = fields[i + 1]
    end
  end
  local by = key and redis.call('HGET', held, key)
  return by and by ~= id and by ~= origin
end
"
    };
}

/// The next of a key goes on: the first of those that are set aside comes back into the stream, and the others wait for it now.
/// One at a time, or one that dies could not hold back those behind it.
///
/// KEYS: stream, starts, what is held, what is set aside in its order, its fields.
macro_rules! go_on {
    () => {
        r"
local function go_on(key)
  local hash = redis.sha1hex(key)
  local first = redis.call('ZRANGEBYLEX', KEYS[4], '[' .. hash .. ':', '(' .. hash .. ';', 'LIMIT', 0, 1)[1]
  if not first then
    redis.call('HDEL', KEYS[3], key)
    return
  end
  local fields = cmsgpack.unpack(redis.call('HGET', KEYS[5], first))
  local entry = redis.call('XADD', KEYS[1], '*', unpack(fields))
  redis.call('HSET', KEYS[3], key, entry)
  redis.call('HDEL', KEYS[5], first)
  redis.call('ZREM', KEYS[4], first)
end
"
    };
}

/// Takes back the marks of suspects that ran and came back: pairs of entry and mark.
macro_rules! take_back {
    () => {
        r"
local function take_back(from)
  for i = from, #ARGV, 2 do
    local found = redis.call('HGET', KEYS[2], ARGV[i])
    if found then
      local count, mark = string.match(found, '^(%d+) (.*)$')
      if mark == ARGV[i + 1] then
        redis.call('HSET', KEYS[2], ARGV[i], string.format('%d -', tonumber(count) - 1))
      end
    end
  end
end
"
    };
}

/// Sets messages of one key aside and acknowledges them, behind one that they wait for from now on, or behind what is held
/// already. Says how many. Does nothing when it is sent twice.
///
/// KEYS: as `go_on`. ARGV: group, a name for this, key, what holds it, the entry of that if it is dead; then of each
/// message its entry, how many fields and values it has, and these.
pub(super) static SET_ASIDE: Script = Script::new(concat!(
    go_on!(),
    r"
if redis.call('HGET', KEYS[5], 'last') == ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[5], 'last', ARGV[2])
local key = ARGV[3]
local function acknowledge(entry)
  redis.call('XACK', KEYS[1], ARGV[1], entry)
  redis.call('HDEL', KEYS[2], entry)
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[3], key, ARGV[4])
end
if ARGV[5] ~= '' then
  acknowledge(ARGV[5])
end
local hash, aside, i = redis.sha1hex(key), 0, 6
while i <= #ARGV do
  local entry, count = ARGV[i], tonumber(ARGV[i + 1])
  if #redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1) > 0 then
    local fields = {}
    for field = i + 2, i + 1 + count do
      fields[#fields + 1] = ARGV[field]
    end
    -- In the order of the stream: digits of one width are ordered as the numbers are.
    local time, number = string.match(entry, '^(%d+)-(%d+)$')
    local pad = function(digits) return string.rep('0', 20 - #digits) .. digits end
    local member = hash .. ':' .. pad(time) .. '-' .. pad(number)
    redis.call('ZADD', KEYS[4], 0, member)
    redis.call('HSET', KEYS[5], member, cmsgpack.pack(fields))
    acknowledge(entry)
    aside = aside + 1
  end
  i = i + 2 + count
end
if redis.call('HEXISTS', KEYS[3], key) == 0 then
  go_on(key)
end
return aside
"
));

/// As `SETTLE`, where order is kept: what waited for a message that is done goes on.
///
/// KEYS: as `go_on`. ARGV: group, number of messages to acknowledge, of each its entry, `k` and its key or nothing, and
/// its origin; pairs of entry and mark.
pub(super) static SETTLE_IN_ORDER: Script = Script::new(concat!(
    go_on!(),
    take_back!(),
    r"
local last = 2 + 3 * tonumber(ARGV[2])
for i = 3, last, 3 do
  local entry, key = ARGV[i], ARGV[i + 1] ~= '' and string.sub(ARGV[i + 1], 2)
  redis.call('XACK', KEYS[1], ARGV[1], entry)
  redis.call('HDEL', KEYS[2], entry)
  local by = key and redis.call('HGET', KEYS[3], key)
  if by and (by == entry or by == ARGV[i + 2]) then
    go_on(key)
  end
end
take_back(last + 1)
return 1
"
));

/// A key is held back no longer. Says whether it was.
///
/// KEYS: as `go_on`. ARGV: key.
pub(super) static LET_GO: Script = Script::new(concat!(
    go_on!(),
    r"
local held = redis.call('HEXISTS', KEYS[3], ARGV[1])
if held == 1 then
  go_on(ARGV[1])
end
return held
"
));

/// The keys that are held back, by what each is, and how many wait.
///
/// KEYS: as `go_on`.
pub(super) static HELD: Script = Script::new(
    r"
local answer = {}
local held = redis.call('HGETALL', KEYS[3])
for i = 1, #held, 2 do
  local hash = redis.sha1hex(held[i])
  local behind = redis.call('ZLEXCOUNT', KEYS[4], '[' .. hash .. ':', '(' .. hash .. ';')
  answer[#answer + 1] = {held[i], held[i + 1], behind}
end
return answer
",
);

/// Acknowledges messages, and takes back the marks of suspects that ran and came back.
///
/// KEYS: stream, starts. ARGV: group, number of messages to acknowledge, these, pairs of entry and mark.
pub(super) static SETTLE: Script = Script::new(concat!(
    take_back!(),
    r"
local last = 2 + tonumber(ARGV[2])
for i = 3, last do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
take_back(last + 1)
return 1
"
));

/// Marks the start of a suspect, or says that it has been started too often. Sent twice with one mark it
/// counts once.
///
/// Where order is kept, one whose key is held back is late instead.
///
/// KEYS: stream, starts, and where order is kept what is held. ARGV: group, consumer, entry, mark, most starts.
pub(super) static START: Script = Script::new(concat!(
    is_late!(),
    r"
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then
  return {'elsewhere'}
end
local entry = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])
if #entry == 0 then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  redis.call('HDEL', KEYS[2], ARGV[3])
  return {'gone'}
end
if KEYS[3] and is_late(KEYS[3], ARGV[3], entry[1][2]) then
  return {'late', 0, entry[1][2]}
end
local count, mark = 0, ''
local found = redis.call('HGET', KEYS[2], ARGV[3])
if found then
  count, mark = string.match(found, '^(%d+) (.*)$')
  count = tonumber(count)
end
if mark ~= ARGV[4] then
  if count >= tonumber(ARGV[5]) then
    return {'poison', count, entry[1][2]}
  end
  count = count + 1
  redis.call('HSET', KEYS[2], ARGV[3], string.format('%d %s', count, ARGV[4]))
end
return {'start', count, entry[1][2]}
"
));

/// Sets how long messages have been idle, of those that are still this consumer's, and answers which are
/// not any more.
///
/// KEYS: stream. ARGV: group, consumer, idle, entries.
pub(super) static HOLD: Script = Script::new(
    r"
local lost = {}
for i = 4, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 0 then
    lost[#lost + 1] = ARGV[i]
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'IDLE', ARGV[3], 'JUSTID')
  end
end
return lost
",
);

/// Puts a message off and acknowledges it. Does nothing for one that is acknowledged already, as when it
/// is sent twice.
///
/// KEYS: stream, starts, delayed, their fields. ARGV: group, entry, letter id, delay, fields.
pub(super) static DELAY: Script = Script::new(
    r"
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then
  return 0
end
local fields = {}
for i = 5, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.ceil(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[4], ARGV[3], cmsgpack.pack(fields))
redis.call('ZADD', KEYS[3], string.format('%.0f', now + tonumber(ARGV[4])), ARGV[3])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[2])
return 1
",
);

/// Puts what is due back into the stream. Answers how many, and how long until the next, or -1.
///
/// KEYS: stream, delayed, their fields. ARGV: most.
pub(super) static MOVE: Script = Script::new(
    r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local fields = redis.call('HGET', KEYS[3], id)
  if fields then
    redis.call('XADD', KEYS[1], '*', unpack(cmsgpack.unpack(fields)))
    redis.call('HDEL', KEYS[3], id)
  end
  redis.call('ZREM', KEYS[2], id)
end
local next = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if #next == 0 then
  return {#due, -1}
end
return {#due, math.max(0, tonumber(next[2]) - now)}
",
);

/// Reads while no message of the group is with anybody else, nor with this consumer without its knowledge.
/// Answers which of them are late besides.
///
/// KEYS: stream, what is held. ARGV: group, consumer, most, messages it knows.
pub(super) static READ_ALONE: Script = Script::new(concat!(
    is_late!(),
    r"
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > tonumber(ARGV[4]) then
  return false
end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
if not read then
  return false
end
local late = {}
if redis.call('EXISTS', KEYS[2]) == 1 then
  for _, entry in ipairs(read[1][2]) do
    if is_late(KEYS[2], entry[1], entry[2]) then
      late[#late + 1] = entry[1]
    end
  end
end
return {read, late}
"
));

/// Takes over messages that nobody has held for so long, in their order, unless one before them is in
/// somebody else's good hands.
///
/// KEYS: stream. ARGV: group, consumer, idle, from, most.
pub(super) static CLAIM_IN_ORDER: Script = Script::new(
    r"
local oldest = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1]
if not oldest or (oldest[2] ~= ARGV[2] and oldest[3] < tonumber(ARGV[3])) then
  return {'0-0', {}, {}}
end
return redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
",
);

/// Takes consumers out of the group that have nothing and were not seen for as long as is said, and the
/// one that is named. One with messages stays, for they would be lost with it.
///
/// KEYS: stream. ARGV: group, consumer, unseen for.
pub(super) static SWEEP: Script = Script::new(
    r"
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #info, 2 do
    consumer[info[i]] = info[i + 1]
  end
  if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
return 1
",
);
