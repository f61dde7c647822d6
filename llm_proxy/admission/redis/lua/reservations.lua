-- Reservations of a budget or a token window are in the hash that counts it: `held` by `running` calls, each a field
-- `l:<lease>` with `amount:until`, and `first`, before which no reservation expires. A budget also has `spent`, and
-- `queue`: the calls that wait for held money, in order of arrival, each `retry_id:tries:amount:until;`.
local function drop(key, lease_id)
  local hold = redis.call('HGET', key, 'l:' .. lease_id)
  if hold then
    redis.call('HDEL', key, 'l:' .. lease_id)
    redis.call('HINCRBY', key, 'held', -string.match(hold, '^%d+'))
    redis.call('HINCRBY', key, 'running', -1)
  end
end

local function hold(key, lease_id, amount, until_ms)
  drop(key, lease_id)
  redis.call('HSET', key, 'l:' .. lease_id, string.format('%.0f:%.0f', amount, until_ms))
  redis.call('HINCRBY', key, 'held', amount)
  local running = redis.call('HINCRBY', key, 'running', 1)
  if running == 1 then redis.call('HSET', key, 'first', until_ms) end
end

-- A counter of a run is a budget's hash with `until`: it is not there once the run was idle for so long.
local function is_run(key, now)
  local until_ms = redis.call('HGET', key, 'until')
  return until_ms and tonumber(until_ms) > now
end

local function touch_run(key, now)
  if not is_run(key, now) then
    redis.call('DEL', key)
    redis.call('HSET', key, 'spent', 0, 'seeded', now)
  end
  redis.call('HSET', key, 'until', now + RUN_IDLE)
  redis.call('PEXPIRE', key, RUN_IDLE)
end

-- Drops the reservations that were not renewed in time.
local function expire(key, now)
  local all, first = redis.call('HGETALL', key), 0
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'l:' then
      local until_ms = tonumber(string.match(all[i + 1], '%d+$'))
      if until_ms <= now then
        drop(key, string.sub(all[i], 3))
      elseif first == 0 or until_ms < first then
        first = until_ms
      end
    end
  end
  redis.call('HSET', key, 'first', first)
end
