-- Renews what running calls hold: slots and reserved money, taken again where the store has lost them.
-- KEYS: one key an entry. ARGV: the TTL of a lease in ms, then for each entry three values:
--   p lease 0        a slot
--   b lease amount   a reservation, in a counter that exists
--   n lease amount   the same of a run, whose counter is made where it is missing
--   d 0 0            the time since a run began
local now, ttl_ms = clock(), tonumber(ARGV[1])
for i = 1, #KEYS do
  local key, kind, lease_id, amount = KEYS[i], ARGV[3 * i - 1], ARGV[3 * i], tonumber(ARGV[3 * i + 1])
  if kind == 'p' then
    redis.call('ZADD', key, now + ttl_ms, lease_id)
    redis.call('PEXPIRE', key, ttl_ms)
  elseif kind == 'n' or kind == 'd' then
    touch_run(key, now)
    if kind == 'n' then hold(key, lease_id, amount, now + ttl_ms) end
  elseif redis.call('HEXISTS', key, 'spent') == 1 then
    hold(key, lease_id, amount, now + ttl_ms)
  end
end
return 1
