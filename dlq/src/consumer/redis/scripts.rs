//! The scripts of a consumer: each over keys of one slot, and each may be sent twice.

use seawall_redis::Script;

/// Acknowledges messages, and takes back the marks of suspects that ran and came back.
///
/// KEYS: stream, starts. ARGV: group, number of messages to acknowledge, these, pairs of entry and mark.
pub(super) static SETTLE: Script = Script::new(
    r"
local last = 2 + tonumber(ARGV[2])
for i = 3, last do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
for i = last + 1, #ARGV, 2 do
  local found = redis.call('HGET', KEYS[2], ARGV[i])
  if found then
    local count, mark = string.match(found, '^(%d+) (.*)$')
    if mark == ARGV[i + 1] then
      redis.call('HSET', KEYS[2], ARGV[i], string.format('%d -', tonumber(count) - 1))
    end
  end
end
return 1
",
);

/// Marks the start of a suspect, or says that it has been started too often. Sent twice with one mark it
/// counts once.
///
/// KEYS: stream, starts. ARGV: group, consumer, entry, mark, most starts.
pub(super) static START: Script = Script::new(
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
",
);

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
///
/// KEYS: stream. ARGV: group, consumer, most, messages it knows.
pub(super) static READ_ALONE: Script = Script::new(
    r"
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > tonumber(ARGV[4]) then
  return false
end
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
",
);

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
