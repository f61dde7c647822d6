-- What `admit` and `admit_requests` share: the tenant's epoch; windows of requests, each a sorted set of lease ids by
-- the time of their calls.
local REQUEST_WINDOW = 60000  -- ms

-- Status and epoch of a tenant; the status is 0 where the gateway's `known` epoch (-1: none) is the newest.
local function compare_epoch(key, known)
  if known < 0 then return 0, 0 end
  local epoch = tonumber(redis.call('GET', key) or -1)
  if epoch < 0 then return 2, 0 end
  return epoch > known and 1 or 0, epoch
end

-- How many requests a window holds, and the wait until `amount` more fit; where they fit, and nothing is counted, the
-- time until it is empty. An amount of 0 asks when that is.
local function read_requests(key, limit, amount, now, reserve)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - REQUEST_WINDOW)
  local used, at = redis.call('ZCARD', key), nil
  local over = used + amount - limit
  if over > 0 and amount ~= 0 then
    at = redis.call('ZRANGE', key, over - 1, over - 1, 'WITHSCORES')
  elseif not reserve then
    at = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  end
  return used, at and at[2] and at[2] + REQUEST_WINDOW - now or 0
end

local function count_request(key, lease_id, now)
  redis.call('ZADD', key, now, lease_id)
  redis.call('PEXPIRE', key, REQUEST_WINDOW)
end
