-- Settle what calls reserved, a batch at a time; a batch that comes twice counts once.
-- KEYS: what the replica last settled for this tenant, then one key an entry. ARGV: the batch's number, then
--   for each entry four words:
--   t lease delta second   tokens: too many leave their bucket, too few count now
--   p lease 0 0            a parallel place is free
--   b lease cost 0         money: the reservation, if it is there still, gives way to what the call cost; a counter
--                          that is missing is rebuilt from the ledger, which has the cost too
-- Returns 1, or 0 when the batch was settled before.
local SPAN, now = 61000, clock()
local last = redis.call('GET', KEYS[1])
if last and tonumber(last) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', 3600000)

local function take(key, delta)
  local sec, head = math.floor(now / 1000), redis.call('HGET', key, 'head')
  if not head or tonumber(head) > sec then redis.call('HSET', key, 'head', sec) end
  redis.call('HINCRBY', key, sec, delta)
  redis.call('HINCRBY', key, 'sum', delta)
  redis.call('PEXPIRE', key, SPAN + 1000)
end

for i = 2, #KEYS do
  local key, at = KEYS[i], 4 * i - 6
  local kind, lease, amount, second = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if kind == 'p' then
    redis.call('ZREM', key, lease)
  elseif kind == 'b' then
    if redis.call('HEXISTS', key, 'spent') == 1 then
      drop(key, lease)
      redis.call('HINCRBY', key, 'spent', amount)
    end
  else
    drop(key, lease)
    if tonumber(amount) > 0 then
      take(key, amount)
    elseif second * 1000 + SPAN > now and redis.call('HEXISTS', key, second) == 1 then
      redis.call('HINCRBY', key, second, amount)
      redis.call('HINCRBY', key, 'sum', amount)
    end
  end
end
return 1
