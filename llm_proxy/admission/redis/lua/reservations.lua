-- What running calls hold of a budget or of a token window is in the hash that counts it: `held` by `running` calls,
-- each a field `l:<lease>` of `amount:until`, and `first`, before which no reservation expires. A budget has `spent`
-- beside them, and `queue`: the calls that wait for held money, in the order they came, `name:tries:want:until;` each.
local function drop(key, lease)
  local hold = redis.call('HGET', key, 'l:' .. lease)
  if hold then
    redis.call('HDEL', key, 'l:' .. lease)
    redis.call('HINCRBY', key, 'held', -string.match(hold, '^%d+'))
    redis.call('HINCRBY', key, 'running', -1)
  end
end

local function hold(key, lease, amount, till)
  drop(key, lease)
  redis.call('HSET', key, 'l:' .. lease, string.format('%.0f:%.0f', amount, till))
  redis.call('HINCRBY', key, 'held', amount)
  local running = redis.call('HINCRBY', key, 'running', 1)
  if running == 1 then redis.call('HSET', key, 'first', till) end
end

-- Drop the reservations of calls that gave no sign of life until now.
local function expire(key, now)
  local all, first = redis.call('HGETALL', key), 0
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'l:' then
      local till = tonumber(string.match(all[i + 1], '%d+$'))
      if till <= now then
        drop(key, string.sub(all[i], 3))
      elseif first == 0 or till < first then
        first = till
      end
    end
  end
  redis.call('HSET', key, 'first', first)
end
