-- Keep what living calls hold: their parallel places, and what they reserved of a budget whose counter was lost.
-- KEYS: one key an entry. ARGV: the life of a place in ms, then for each entry three words:
--   p lease 0      a place: kept, or taken anew where the store has forgotten it
--   b born want    a reservation: made again in a counter of another birth, which cannot know of it
-- Returns for each entry the birth of the counter that took a reservation anew, else 0.
local now, life, reply = clock(), tonumber(ARGV[1]), {}
for i = 1, #KEYS do
  local kind, one, want = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  reply[i] = 0
  if kind == 'p' then
    redis.call('ZADD', KEYS[i], now + life, one)
    redis.call('PEXPIRE', KEYS[i], life)
  else
    local born = redis.call('HGET', KEYS[i], 'born')
    if born and born ~= one then
      redis.call('HINCRBY', KEYS[i], 'spent', want)
      reply[i] = tonumber(born)
    end
  end
end
return reply
