-- Puts a run into quarantine unless it is in one, and forgets its turns; or (a duration of 0) ends its quarantine.
-- `MemoryTurns.quarantine` and `release` do the same.
-- KEYS: the run. ARGV: duration in ms, evidence, TTL in ms beyond its end. Returns when it ends; 0 for never begun.
local key, now, duration = KEYS[1], clock(), tonumber(ARGV[1])
local until_ms = tonumber(redis.call('HGET', key, 'until') or 0)
if duration == 0 then
  redis.call('HDEL', key, 'until', 'evidence')
  return until_ms > now and until_ms or 0
end
if until_ms > now then return until_ms end
until_ms = now + duration
redis.call('HSET', key, 'until', string.format('%.0f', until_ms), 'evidence', ARGV[2], 'turns', '')
redis.call('PEXPIRE', key, duration + tonumber(ARGV[3]))
return until_ms
