-- Put jobs on the DLQ stream, each exactly once however often this is repeated.
-- KEYS[1] DLQ stream, KEYS[2] hash job id -> entry; ARGV id, type, error, id, type, error, … Returns how many were new.
local added = 0
for at = 1, #ARGV, 3 do
    if redis.call('HEXISTS', KEYS[2], ARGV[at]) == 0 then
        local entry = redis.call('XADD', KEYS[1], '*', 'id', ARGV[at], 'type', ARGV[at + 1], 'error', ARGV[at + 2])
        redis.call('HSET', KEYS[2], ARGV[at], entry)
        added = added + 1
    end
end
return added
