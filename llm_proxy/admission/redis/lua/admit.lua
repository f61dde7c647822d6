-- Admit a call if every check passes: check all, then take all. `model.py` does the same.
-- KEYS: the tenant's epoch, then one key a check.
-- ARGV: take (1) or only look (0), epoch known (-1: none), lease, its life in ms, the name under which the call
--   waits for money; then for each check its kind (requests, tokens, parallel, budget by first letter; a capital
--   one is enforced), limit, want.
-- Returns: status, now, epoch, then four numbers for each check: what it had counted, its extra, how many running
--   calls hold some of it (tokens, budget), and what is kept for a call that waits (budget); see `check.py`.
local WINDOW, SPAN, POLITE, PATIENCE, KEPT_AFTER, MOST_WAITING = 60000, 61000, 2000, 5000, 2, 16
local QUEUED = '([^:;]+):(%d+):(%d+):(%d+);'
local now, take, lease, life, name = clock(), ARGV[1] == '1', ARGV[3], tonumber(ARGV[4]), ARGV[5]
local sec = math.floor(now / 1000)

local look = {}

function look.r(key, over_by, limit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - WINDOW)
  local used = redis.call('ZCARD', key)
  local over, at = over_by(used), nil
  if over_by(limit) == 0 then over = 0 end  -- it wants nothing: it asks when the window is empty
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

function look.b(key, _, limit)
  local first = redis.call('HGET', key, 'first')
  if first and tonumber(first) <= now and first ~= '0' then expire(key, now) end
  local counter = redis.call('HMGET', key, 'spent', 'held', 'running', 'queue')
  if not counter[1] then return -1, 0, 0, 0 end
  local spent, kept = tonumber(counter[1]), 0
  for waiting, tries, want, till in string.gmatch(counter[4] or '', QUEUED) do
    if waiting == name then break end
    if tonumber(tries) >= KEPT_AFTER and tonumber(till) > now then kept = kept + want end
  end
  return spent, tonumber(counter[2] or 0), tonumber(counter[3] or 0), math.min(kept, math.max(0, limit - spent))
end

-- Let a call wait for money that is merely held, or (without a want) wait no more.
local function queue(key, want)
  local left, size, found = {}, 0, false
  for waiting, tries, share, till in string.gmatch(redis.call('HGET', key, 'queue') or '', QUEUED) do
    if waiting == name then
      found = true
      tries, share, till = tries + 1, want, now + PATIENCE
    end
    if share and tonumber(till) > now then
      size = size + 1
      left[size] = string.format('%s:%.0f:%.0f:%.0f;', waiting, tries, share, till)
    end
  end
  if want and not found and size < MOST_WAITING then
    left[size + 1] = string.format('%s:1:%.0f:%.0f;', name, want, now + PATIENCE)
  end
  redis.call('HSET', key, 'queue', table.concat(left))
end

function look.t(key, over_by, limit)
  local state = redis.call('HMGET', key, 'sum', 'head', 'first')
  if not state[1] then return 0, 0, 0 end
  if state[3] and state[3] ~= '0' and tonumber(state[3]) <= now then expire(key, now) end
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
  local holds = redis.call('HMGET', key, 'held', 'running')
  local held, running = tonumber(holds[1] or 0), tonumber(holds[2] or 0)
  local over, extra = over_by(sum), 0
  if running == 0 then over = sum < limit and 0 or sum + 1 - limit end
  if over_by(limit) == 0 then over = 0 end
  if over > 0 and over_by(sum - held) <= 0 then
    extra = POLITE
  elseif over > 0 then
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
  return sum, extra, running
end

local epoch, known = 0, tonumber(ARGV[2])
if known >= 0 then
  epoch = tonumber(redis.call('GET', KEYS[1]) or -1)
  if epoch < 0 then return {2, now, 0} end
  if epoch > known then return {1, now, epoch} end
end

-- What a budget says: 1 it is spent, 2 what is left is held or kept, 0 neither. A call that is alone with what is
-- left goes, whatever it may cost.
local function money(limit, want, spent, held, kept)
  if spent >= limit then return 1 end
  if spent + held + kept + want <= limit or held + kept == 0 then return 0 end
  return 2
end

local function full(kind, limit, want, used, running)
  return used + want > limit and not (kind == 't' and running == 0 and used < limit)
end

local reply, refused, unknown, waits = {0, now, epoch}, false, false, {}
for i = 2, #KEYS do
  local code, limit, want = ARGV[3 * i], tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  local kind, at = string.lower(code), 4 * i - 4
  local used, extra, running, kept = look[kind](KEYS[i], function(n) return n + want - limit end, limit)
  reply[at], reply[at + 1], reply[at + 2], reply[at + 3] = used, extra, running or 0, kept or 0
  if code ~= kind then
    if used < 0 then
      unknown = true
    elseif kind == 'b' then
      local said = money(limit, want, used, extra, kept)
      if said == 1 then refused = true elseif said == 2 then waits[#waits + 1] = i end
    elseif full(kind, limit, want, used, running) then
      refused = true
    end
  end
end
if take and name ~= '' and not refused and not unknown then
  for _, i in ipairs(waits) do queue(KEYS[i], tonumber(ARGV[3 * i + 2])) end
end
if refused or #waits > 0 then reply[1] = 4 elseif unknown then reply[1] = 3 end
if reply[1] ~= 0 or not take then return reply end

for i = 2, #KEYS do
  local kind, limit, want = string.lower(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  local key, used = KEYS[i], reply[4 * i - 4]
  if kind == 'b' then
    if used >= 0 then
      hold(key, lease, want, now + life)
      if name ~= '' and redis.call('HSTRLEN', key, 'queue') > 0 then queue(key) end
    end
  elseif full(kind, limit, want, used, reply[4 * i - 2]) then
    -- it only watches, and would have refused: an enforced one would not have counted the call
  elseif kind == 't' then
    local head = redis.call('HGET', key, 'head')
    if not head or tonumber(head) > sec then redis.call('HSET', key, 'head', sec) end
    redis.call('HINCRBY', key, sec, want)
    redis.call('HINCRBY', key, 'sum', want)
    hold(key, lease, want, now + SPAN)
    redis.call('PEXPIRE', key, SPAN + 1000)
  else
    redis.call('ZADD', key, kind == 'r' and now or now + life, lease)
    redis.call('PEXPIRE', key, kind == 'r' and WINDOW or life)
  end
end
return reply
