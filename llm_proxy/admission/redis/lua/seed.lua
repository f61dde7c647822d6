-- Gives a missing budget counter its value, or a tenant its epoch.
-- KEYS: the counter. ARGV: `spent` value expires_ms (0: never), or `epoch` value.
-- An existing counter is not changed; an epoch never falls. `seeded` is when a counter was made, in ms.
if ARGV[1] == 'epoch' then
  local epoch = redis.call('GET', KEYS[1])
  if not epoch or tonumber(epoch) < tonumber(ARGV[2]) then redis.call('SET', KEYS[1], ARGV[2], 'PX', 86400000) end
  return 1
end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'spent', ARGV[2], 'seeded', clock())
if ARGV[3] ~= '0' then redis.call('PEXPIREAT', KEYS[1], ARGV[3]) end
return 1
