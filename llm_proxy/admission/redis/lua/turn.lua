-- Adds a turn to a run and returns the turns before it; or says that the run is in quarantine. `MemoryTurns.add` does
-- the same.
-- KEYS: the run. ARGV: the turn's part of a record, TTL in ms, bytes of records kept.
-- Returns: now, the turn's number (0: quarantine), records before, nano-dollars of the last minutes, evidence, its end.
local MINUTES, SLOTS = 5, 6
local key, now = KEYS[1], clock()
local run = redis.call('HMGET', key, 'until', 'evidence', 'count', 'turns', 'm0', 'm1', 'm2', 'm3', 'm4', 'm5')
if run[1] then
  if tonumber(run[1]) > now then return {now, 0, '', 0, run[2], tonumber(run[1])} end
  redis.call('HDEL', key, 'until', 'evidence')
end
local number, kept, most = tonumber(run[3] or 0) + 1, run[4] or '', tonumber(ARGV[3])
local turns = kept .. string.format('%013.0f%013.0fr', now, 0) .. ARGV[1]
if #turns > most then turns = string.sub(turns, -most) end
redis.call('HSET', key, 'count', number, 'turns', turns)
redis.call('PEXPIRE', key, ARGV[2])
local minute, spent = math.floor(now / 60000), 0
for slot = 1, SLOTS do
  local at, cost = string.match(run[4 + slot] or '', '(%d+):(%d+)')
  if at and tonumber(at) > minute - MINUTES then spent = spent + tonumber(cost) end
end
return {now, number, kept, spent, '', 0}
