-- Reserves a call's amounts if every check passes; checks all before it counts any. `MemoryLimiter` does the same.
-- KEYS: the tenant's epoch, then one key a check; for a call in a limited run last the key's latest runs.
-- ARGV: reserve (1) or count nothing (0), known epoch (-1: none), lease id, its TTL in ms, retry id (identifies a call
--   that waits for money), the run's digest (empty: none); then for each check its kind (requests, tokens, parallel,
--   budget, duration by first letter, n a run's budget; in upper case when it is enforced), limit, amount.
-- Returns: status, now, epoch, then four numbers for each check: used, extra, how many running calls hold some of it
--   (tokens, budget), and what is kept for a call that waits (budget); see `LimiterResult`.
local TOKEN_WINDOW, GUESSED_WAIT, WAITER_TTL = 61000, 2000, 5000  -- ms
local KEPT_AFTER_TRIES, MAX_WAITERS = 2, 16
local QUEUED = '([^:;]+):(%d+):(%d+):(%d+);'
local now, reserve, lease_id, ttl_ms, retry_id = clock(), ARGV[1] == '1', ARGV[3], tonumber(ARGV[4]), ARGV[5]
local sec, run = math.floor(now / 1000), ARGV[6]
local last = run == '' and #KEYS or #KEYS - 1

local status, epoch = compare_epoch(KEYS[1], tonumber(ARGV[2]))
if status ~= 0 then return {status, now, epoch} end

local state = {}

function state.r(key, limit, amount)
  return read_requests(key, limit, amount, now, reserve)
end

function state.p(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  return redis.call('ZCARD', key), 0
end

function state.b(key, limit)
  local first = redis.call('HGET', key, 'first')
  if first and tonumber(first) <= now and first ~= '0' then expire(key, now) end
  local counter = redis.call('HMGET', key, 'spent', 'held', 'running', 'queue')
  if not counter[1] then return -1, 0, 0, 0 end
  local spent, kept = tonumber(counter[1]), 0
  for waiting, tries, amount, until_ms in string.gmatch(counter[4] or '', QUEUED) do
    if waiting == retry_id then break end
    if tonumber(tries) >= KEPT_AFTER_TRIES and tonumber(until_ms) > now then kept = kept + amount end
  end
  return spent, tonumber(counter[2] or 0), tonumber(counter[3] or 0), math.min(kept, math.max(0, limit - spent))
end

-- A run that is not known has used nothing.
function state.n(key, limit)
  if not is_run(key, now) then return 0, 0, 0, 0 end
  return state.b(key, limit)
end

function state.d(key)
  return is_run(key, now) and now - redis.call('HGET', key, 'seeded') or 0, 0
end

-- Adds a call to the waiters for money that is merely held, or (without an amount) removes it.
local function queue(key, amount)
  local left, size, found = {}, 0, false
  for waiting, tries, share, until_ms in string.gmatch(redis.call('HGET', key, 'queue') or '', QUEUED) do
    if waiting == retry_id then
      found = true
      tries, share, until_ms = tries + 1, amount, now + WAITER_TTL
    end
    if share and tonumber(until_ms) > now then
      size = size + 1
      left[size] = string.format('%s:%.0f:%.0f:%.0f;', waiting, tries, share, until_ms)
    end
  end
  if amount and not found and size < MAX_WAITERS then
    left[size + 1] = string.format('%s:1:%.0f:%.0f;', retry_id, amount, now + WAITER_TTL)
  end
  redis.call('HSET', key, 'queue', table.concat(left))
end

function state.t(key, limit, amount)
  local window = redis.call('HMGET', key, 'sum', 'head', 'first')
  if not window[1] then return 0, 0, 0 end
  if window[3] and window[3] ~= '0' and tonumber(window[3]) <= now then expire(key, now) end
  local sum, head, first = tonumber(window[1]), tonumber(window[2]), math.floor((now - TOKEN_WINDOW) / 1000) + 1
  if head < first then
    for at = head, first - 1 do
      local expired = redis.call('HGET', key, at)
      if expired then
        sum = sum - expired
        redis.call('HDEL', key, at)
      end
    end
    head = first
    redis.call('HSET', key, 'sum', sum, 'head', head)
  end
  local reserved = redis.call('HMGET', key, 'held', 'running')
  local held, running = tonumber(reserved[1] or 0), tonumber(reserved[2] or 0)
  local over, extra = sum + amount - limit, 0
  if running == 0 then over = sum < limit and 0 or sum + 1 - limit end
  if amount == 0 then over = 0 end  -- it asks when the window is empty
  if over > 0 and sum - held + amount <= limit then
    extra = GUESSED_WAIT
  elseif over > 0 then
    extra = TOKEN_WINDOW
    for at = head, sec do
      over = over - (redis.call('HGET', key, at) or 0)
      if over <= 0 then
        extra = at * 1000 + TOKEN_WINDOW - now
        break
      end
    end
  elseif not reserve then
    for at = sec, head, -1 do
      if redis.call('HEXISTS', key, at) == 1 then
        extra = at * 1000 + TOKEN_WINDOW - now
        break
      end
    end
  end
  return sum, extra, running
end

-- The verdict of a budget: 1 spent, 2 what is left is held or kept, 0 fits. A call that is alone with what is left
-- fits, whatever it may cost.
local function budget_verdict(limit, amount, spent, held, kept)
  if spent >= limit then return 1 end
  if spent + held + kept + amount <= limit or held + kept == 0 then return 0 end
  return 2
end

local function full(kind, limit, amount, used, running)
  return used + amount > limit and not (kind == 't' and running == 0 and used < limit)
end

local reply, rejected, unknown, held_at = {0, now, epoch}, false, false, {}
for i = 2, last do
  local code, limit, amount = ARGV[3 * i + 1], tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3])
  local kind, at = string.lower(code), 4 * i - 4
  local used, extra, running, kept = state[kind](KEYS[i], limit, amount)
  reply[at], reply[at + 1], reply[at + 2], reply[at + 3] = used, extra, running or 0, kept or 0
  if code ~= kind then
    if used < 0 then
      unknown = true
    elseif kind == 'b' or kind == 'n' then
      local verdict = budget_verdict(limit, amount, used, extra, kept)
      if verdict == 1 then rejected = true elseif verdict == 2 then held_at[#held_at + 1] = i end
    elseif full(kind, limit, amount, used, running) then
      rejected = true
    end
  end
end
if reserve and retry_id ~= '' and not rejected and not unknown then
  for _, i in ipairs(held_at) do queue(KEYS[i], tonumber(ARGV[3 * i + 3])) end
end
if rejected or #held_at > 0 then reply[1] = 4 elseif unknown then reply[1] = 3 end
if reply[1] ~= 0 or not reserve then return reply end

for i = 2, last do
  local kind, limit, amount = string.lower(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3])
  local key, used = KEYS[i], reply[4 * i - 4]
  if kind == 'n' or kind == 'd' then touch_run(key, now) end
  if kind == 'b' or kind == 'n' then
    if used >= 0 then
      hold(key, lease_id, amount, now + ttl_ms)
      if retry_id ~= '' and redis.call('HSTRLEN', key, 'queue') > 0 then queue(key) end
    end
  elseif kind == 'd' or full(kind, limit, amount, used, reply[4 * i - 2]) then
    -- a shadow check that would have rejected: an enforced one would not have counted the call
  elseif kind == 't' then
    local head = redis.call('HGET', key, 'head')
    if not head or tonumber(head) > sec then redis.call('HSET', key, 'head', sec) end
    redis.call('HINCRBY', key, sec, amount)
    redis.call('HINCRBY', key, 'sum', amount)
    hold(key, lease_id, amount, now + TOKEN_WINDOW)
    redis.call('PEXPIRE', key, TOKEN_WINDOW + 1000)
  elseif kind == 'r' then
    count_request(key, lease_id, now)
  else
    redis.call('ZADD', key, now + ttl_ms, lease_id)
    redis.call('PEXPIRE', key, ttl_ms)
  end
end
if run ~= '' then
  local runs = KEYS[last + 1]
  redis.call('ZADD', runs, now, run)
  redis.call('PEXPIRE', runs, RUN_IDLE)
  if redis.call('ZCARD', runs) > MAX_RUNS then  -- the run of this key that was idle for longest is forgotten
    local oldest = redis.call('ZPOPMIN', runs)[1]
    for i = 2, last do
      local kind, key = string.lower(ARGV[3 * i + 1]), KEYS[i]
      if kind == 'n' or kind == 'd' then redis.call('DEL', string.sub(key, 1, #key - #run) .. oldest) end
    end
  end
end
return reply
