-- Settle what calls reserved, a batch at a time; a batch that comes twice counts once.
-- KEYS: what the replica last settled for this tenant, then one key an entry. ARGV: the batch's number, then
--   for each entry four words:
--   t lease delta second   tokens: too many leave their bucket, too few count now
--   p lease 0 0            a parallel place is free
--   b lease cost known     money: the reservation, if it is there still, gives way to what the call cost; a counter
--                          that is missing is rebuilt from the ledger, which has the cost too. With `known` it is
--                          a correction, which a counter seeded after that (ms) may have from the ledger already
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
  local kind, lease, amount, from = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if kind == 'p' then
    redis.call('ZREM', key, lease)
  elseif kind == 'b' then
    local counter = redis.call('HMGET', key, 'spent', 'seeded')
    if counter[1] and (from == '0' or tonumber(counter[2] or 0) <= tonumber(from)) then
      drop(key, lease)
      if redis.call('HINCRBY', key, 'spent', amount) < 0 then redis.call('HSET', key, 'spent', 0) end
    end
  else
    drop(key, lease)
    if tonumber(amount) > 0 then
      take(key, amount)
    elseif from * 1000 + SPAN > now and redis.call('HEXISTS', key, from) == 1 then
      redis.call('HINCRBY', key, from, amount)
      redis.call('HINCRBY', key, 'sum', amount)
    end
  end
end
return 1
