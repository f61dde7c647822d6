-- Adds a segment to a kept answer, within the bound of all of them.
-- KEYS: the answer (a list), the order of all answers (a sorted set, by the time they end), their sizes (a hash), when the
-- answer's person was erased last, in ms. ARGV: the segment, its number, how long the answer is kept in ms, the most bytes
-- of all answers, when the call began in ms.
-- Returns 1, or 0 for an answer that was evicted or erased meanwhile. The same segment again is 1. Answers that would
-- take too much room together make room by their age; an answer that does not fit alone is dropped.
local answer, order, sizes = KEYS[1], KEYS[2], KEYS[3]
local number, keep, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local have = redis.call('LLEN', answer)
if have == number + 1 then return 1 end
if have ~= number then return 0 end
if number == 0 and tonumber(redis.call('GET', KEYS[4]) or 0) >= tonumber(ARGV[5]) then return 0 end
local now = clock()
local function drop(name)
  redis.call('DEL', name)
  redis.call('ZREM', order, name)
  local size = tonumber(redis.call('HGET', sizes, name) or 0)
  redis.call('HDEL', sizes, name)
  return redis.call('HINCRBY', sizes, 'total', -size)
end
redis.call('RPUSH', answer, ARGV[1])
redis.call('PEXPIRE', answer, keep)
redis.call('ZADD', order, now + keep, answer)
local own = redis.call('HINCRBY', sizes, answer, #ARGV[1])
local total = redis.call('HINCRBY', sizes, 'total', #ARGV[1])
for _, name in ipairs({order, sizes}) do
  if redis.call('PTTL', name) < keep then redis.call('PEXPIRE', name, keep) end
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', order, '-inf', now, 'LIMIT', 0, 100)) do total = drop(name) end
if own > most then
  drop(answer)
  return 0
end
while total > most do
  local first = redis.call('ZRANGE', order, 0, 1)
  local oldest = first[1] == answer and first[2] or first[1]
  if oldest == answer then -- the order of the others was evicted
    redis.call('DEL', sizes)
    redis.call('HSET', sizes, answer, own, 'total', own)
    redis.call('PEXPIRE', sizes, keep)
    break
  end
  total = drop(oldest)
end
return 1
