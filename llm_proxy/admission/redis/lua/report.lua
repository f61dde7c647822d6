-- Registers a process as alive, and returns what it has to do; see `redis/call_exchange.py`.
-- KEYS: the living processes, whether the running calls are watched, the calls to be stopped. ARGV: the process, for how
-- long it is alive, in ms.
-- Returns: 1 while the calls are watched, the calls to be stopped.
local now = clock()
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {redis.call('EXISTS', KEYS[2]), redis.call('HGETALL', KEYS[3])}
