-- One claim of an idempotency key; does what `admission/idempotency.py` says.
-- KEYS: the claim. ARGV: step (claim, listen, renew, finish, release), call, span_ms (lease, or how long an answer is
-- kept), fingerprint, state (finish: stored or gone).
-- Returns the verdict, the call that holds the claim, the time that is left, the time since a caller listened (-1: never).
local step, call, span, fingerprint, state = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local now = clock()
local fields = redis.call('HMGET', KEYS[1], 'fingerprint', 'call', 'state', 'until', 'heard')
local held = {fingerprint = fields[1], call = fields[2], state = fields[3]}
held.ends, held.heard = tonumber(fields[4] or 0), tonumber(fields[5] or 0)
local absent = held.ends <= now

local function reply(verdict)
  return {verdict, held.call, held.ends - now, held.heard > 0 and now - held.heard or -1}
end
local function lost()
  if absent then return {'lost', '', 0, -1} end
  return reply('lost')
end
local function hold(as, heard)
  held = {fingerprint = fingerprint, call = call, state = as, ends = now + span, heard = heard}
  redis.call('HSET', KEYS[1], 'fingerprint', fingerprint, 'call', call, 'state', as, 'until', held.ends, 'heard', heard)
  redis.call('PEXPIRE', KEYS[1], span)
end
local function heard()
  if held.state == 'running' then
    held.heard = now
    redis.call('HSET', KEYS[1], 'heard', now)
  end
  return reply(held.state)
end

if step == 'claim' then
  if absent then
    hold('running', 0)
    return reply('yours')
  end
  if held.fingerprint ~= fingerprint then return reply('reused') end
  return heard()
end
if step == 'renew' then
  if not absent and (held.call ~= call or held.state ~= 'running') then return lost() end
  hold('running', absent and 0 or held.heard)
  return reply('yours')
end
if step == 'finish' then
  if not absent and held.call ~= call then return lost() end
  hold(state, 0)
  return reply(state)
end
if absent or held.call ~= call then return lost() end
if step == 'listen' then return heard() end
redis.call('DEL', KEYS[1])
return lost()
