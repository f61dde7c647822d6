-- Settles what calls reserved, a batch at a time; a repeated batch counts once.
-- KEYS: the last batch the replica settled for this tenant, then one key an entry. ARGV: the batch's number, then for
--   each entry four values:
--   t lease delta second   tokens: surplus leaves its bucket, a deficit counts now
--   p lease 0 0            releases a slot
--   b lease cost known     money: the cost replaces the reservation, if it is still there; a missing counter is rebuilt
--                          from the ledger, which has the cost too. With `known` it is a correction, which a counter
--                          seeded after that (ms) may have from the ledger already
--   n lease cost known     the same of a run: a missing counter is made, but for a correction
--   d                      nothing
--   g outcome cost number  the end of a run's turn, as `MemoryTurns.end` notes it
-- Returns 1, or 0 when the batch was settled before.
local TOKEN_WINDOW, now = 61000, clock()
local last_number = redis.call('GET', KEYS[1])
if last_number and tonumber(last_number) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', 3600000)

local function add(key, delta)
  local sec, head = math.floor(now / 1000), redis.call('HGET', key, 'head')
  if not head or tonumber(head) > sec then redis.call('HSET', key, 'head', sec) end
  redis.call('HINCRBY', key, sec, delta)
  redis.call('HINCRBY', key, 'sum', delta)
  redis.call('PEXPIRE', key, TOKEN_WINDOW + 1000)
end

local RECORD, MINUTE_SLOTS = 55, 6  -- bytes, as `loop_guard` packs them; minutes of spend, as `turn.lua` reads them
local function end_turn(key, outcome, cost, number)
  local run = redis.call('HMGET', key, 'count', 'turns')
  if not run[1] then return end
  local first = #run[2] - (tonumber(run[1]) - number + 1) * RECORD
  if first >= 0 and first + RECORD <= #run[2] then
    local ended = string.format('%013.0f', now) .. outcome
    local turns = string.sub(run[2], 1, first + 13) .. ended .. string.sub(run[2], first + 28)
    redis.call('HSET', key, 'turns', turns)
  end
  if cost > 0 then
    local minute = math.floor(now / 60000)
    local field = 'm' .. minute % MINUTE_SLOTS
    local at, before = string.match(redis.call('HGET', key, field) or '', '(%d+):(%d+)')
    if at and tonumber(at) == minute then cost = cost + tonumber(before) end
    redis.call('HSET', key, field, string.format('%.0f:%.0f', minute, cost))
  end
end

for i = 2, #KEYS do
  local key, at = KEYS[i], 4 * i - 6
  local kind, lease_id, amount, from = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if kind == 'p' then
    redis.call('ZREM', key, lease_id)
  elseif kind == 'b' or kind == 'n' then
    if kind == 'n' and from == '0' and tonumber(amount) > 0 then touch_run(key, now) end
    local counter = redis.call('HMGET', key, 'spent', 'seeded')
    local there = counter[1] and (kind == 'b' or is_run(key, now))
    if there and (from == '0' or tonumber(counter[2] or 0) <= tonumber(from)) then
      drop(key, lease_id)
      if redis.call('HINCRBY', key, 'spent', amount) < 0 then redis.call('HSET', key, 'spent', 0) end
    end
  elseif kind == 'g' then
    end_turn(key, lease_id, tonumber(amount), tonumber(from))
  elseif kind == 't' then
    drop(key, lease_id)
    if tonumber(amount) > 0 then
      add(key, amount)
    elseif from * 1000 + TOKEN_WINDOW > now and redis.call('HEXISTS', key, from) == 1 then
      redis.call('HINCRBY', key, from, amount)
      redis.call('HINCRBY', key, 'sum', amount)
    end
  end
end
return 1
