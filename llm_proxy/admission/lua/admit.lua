-- Admit a call if every check passes: check all, then take all. `model.py` does the same.
-- KEYS: the tenant's epoch, then one key a check.
-- ARGV: take (1) or only look (0), epoch known (-1: none), lease, its life in ms; then for each check its
--   kind (requests, tokens, parallel, budget by first letter; a capital one is enforced), limit, want.
-- Returns: status, now, epoch, then for each check what it had counted and its extra (see `check.py`).
local WINDOW, SPAN = 60000, 61000
local now, take, lease, life = clock(), ARGV[1] == '1', ARGV[3], tonumber(ARGV[4])
local sec = math.floor(now / 1000)

local look = {}

function look.r(key, over_by)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - WINDOW)
  local used = redis.call('ZCARD', key)
  local over, at = over_by(used), nil
  if over > 0 then
    at = redis.call('ZRANGE', key, over - 1, over - 1, 'WITHSCORES')
  elseif not take then
    at = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  end
  return used, at and at[2] and at[2] + WINDOW - now or 0
end

function look.p(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  return redis.call('ZCARD', key), 0
end

function look.b(key)
  local counter = redis.call('HMGET', key, 'spent', 'born')
  if not counter[1] then return -1, 0 end
  return tonumber(counter[1]), tonumber(counter[2])
end

function look.t(key, over_by)
  local state = redis.call('HMGET', key, 'sum', 'head')
  if not state[1] then return 0, over_by(0) > 0 and SPAN or 0 end
  local sum, head, first = tonumber(state[1]), tonumber(state[2]), math.floor((now - SPAN) / 1000) + 1
  if head < first then
    for at = head, first - 1 do
      local gone = redis.call('HGET', key, at)
      if gone then
        sum = sum - gone
        redis.call('HDEL', key, at)
      end
    end
    head = first
    redis.call('HSET', key, 'sum', sum, 'head', head)
  end
  local over, extra = over_by(sum), 0
  if over > 0 then
    extra = SPAN
    for at = head, sec do
      over = over - (redis.call('HGET', key, at) or 0)
      if over <= 0 then
        extra = at * 1000 + SPAN - now
        break
      end
    end
  elseif not take then
    for at = sec, head, -1 do
      if redis.call('HEXISTS', key, at) == 1 then
        extra = at * 1000 + SPAN - now
        break
      end
    end
  end
  return sum, extra
end

local epoch, known = 0, tonumber(ARGV[2])
if known >= 0 then
  epoch = tonumber(redis.call('GET', KEYS[1]) or -1)
  if epoch < 0 then return {2, now, 0} end
  if epoch > known then return {1, now, epoch} end
end

local reply, refused, unknown = {0, now, epoch}, false, false
for i = 2, #KEYS do
  local code, limit, want = ARGV[3 * i - 1], tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local kind = string.lower(code)
  local used, extra = look[kind](KEYS[i], function(n) return n + want - limit end)
  reply[2 * i], reply[2 * i + 1] = used, extra
  if code ~= kind then
    if used < 0 then unknown = true elseif used + want > limit then refused = true end
  end
end
if refused then reply[1] = 4 elseif unknown then reply[1] = 3 end
if reply[1] ~= 0 or not take then return reply end

for i = 2, #KEYS do
  local kind, limit, want = string.lower(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local key, used = KEYS[i], reply[2 * i]
  if kind == 'b' then
    if used >= 0 then redis.call('HINCRBY', key, 'spent', want) end
  elseif kind == 't' then
    local head = redis.call('HGET', key, 'head')
    if not head or tonumber(head) > sec then redis.call('HSET', key, 'head', sec) end
    redis.call('HINCRBY', key, sec, want)
    redis.call('HINCRBY', key, 'sum', want)
    redis.call('PEXPIRE', key, SPAN + 1000)
  elseif used + want <= limit then
    redis.call('ZADD', key, kind == 'r' and now or now + life, lease)
    redis.call('PEXPIRE', key, kind == 'r' and WINDOW or life)
  end
end
return reply
