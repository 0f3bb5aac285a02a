//! The scripts of the sink: each over keys of one slot.

use seawall_redis::Script;

/// Appends a letter unless it is there, and acknowledges its message. What is last in it cannot fail once
/// the first has not, so that nothing is acknowledged whose letter is not written.
///
/// KEYS: letters, index, and where a message is acknowledged its stream and its start marks, and where its key is held back
/// what is held. ARGV: letter id, hash of the request, time of death, letter, group, entry, key, origin.
pub(super) static WRITE: Script = Script::new(
    r"
local answer = 'new'
local found = redis.call('HGET', KEYS[2], ARGV[1])
if found then
  local entry = string.sub(found, 17)
  if string.sub(found, 1, 16) ~= ARGV[2] then
    return 'conflict'
  end
  if #redis.call('XRANGE', KEYS[1], entry, entry) > 0 then
    answer = 'repeat'
  end
end
if answer == 'new' then
  local entry = redis.call('XADD', KEYS[1], '*', 'letter', ARGV[4], 'died', ARGV[3])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. entry)
end
if KEYS[3] then
  redis.call('XACK', KEYS[3], ARGV[5], ARGV[6])
  redis.call('HDEL', KEYS[4], ARGV[6])
end
if KEYS[5] then
  redis.call('HSET', KEYS[5], ARGV[7], ARGV[8])
end
return answer
",
);

/// KEYS: letters, index. ARGV: letter id.
pub(super) static GET: Script = Script::new(
    r"
local found = redis.call('HGET', KEYS[2], ARGV[1])
if not found then
  return {}
end
local entry = string.sub(found, 17)
return redis.call('XRANGE', KEYS[1], entry, entry)
",
);

/// KEYS: letters, index. ARGV: letter id.
pub(super) static REMOVE: Script = Script::new(
    r"
local found = redis.call('HGET', KEYS[2], ARGV[1])
if not found then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('XDEL', KEYS[1], string.sub(found, 17))
",
);

/// How many, when the first died, and the last entry. KEYS: letters.
pub(super) static DEPTH: Script = Script::new(
    r"
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if #first == 0 then
  return {0}
end
local died = ''
for i = 1, #first[1][2], 2 do
  if first[1][2][i] == 'died' then
    died = first[1][2][i + 1]
  end
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {redis.call('XLEN', KEYS[1]), died, last[1][1]}
",
);
