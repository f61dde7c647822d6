-- Keep what living calls hold: their parallel places and the money reserved for them, taken anew where the store
-- has forgotten them. KEYS: one key an entry. ARGV: the life of a lease in ms, then for each entry three words:
--   p lease 0      a place
--   b lease want   a reservation; in a counter that exists
local now, life = clock(), tonumber(ARGV[1])
for i = 1, #KEYS do
  local key, kind, lease, want = KEYS[i], ARGV[3 * i - 1], ARGV[3 * i], tonumber(ARGV[3 * i + 1])
  if kind == 'p' then
    redis.call('ZADD', key, now + life, lease)
    redis.call('PEXPIRE', key, life)
  elseif redis.call('HEXISTS', key, 'spent') == 1 then
    hold(key, lease, want, now + life)
  end
end
return 1
