-- Keep the parallel places of living calls. KEYS: one key a place. ARGV: the life in ms, then a lease for each.
-- A place already given up for dead stays lost. Returns how many were kept.
local now, life, kept = clock(), tonumber(ARGV[1]), 0
for i = 1, #KEYS do
  if redis.call('ZSCORE', KEYS[i], ARGV[i + 1]) then
    redis.call('ZADD', KEYS[i], now + life, ARGV[i + 1])
    redis.call('PEXPIRE', KEYS[i], life)
    kept = kept + 1
  end
end
return kept
