-- Acknowledge entries of a lane and remove them: a lane needs no trimming.
-- KEYS[1] lane; ARGV[1] group, then entries. Returns how many there were.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('XACK', KEYS[1], unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
