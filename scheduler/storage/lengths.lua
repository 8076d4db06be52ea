-- How much each key holds, the lanes counted with the stream.
-- KEYS[1] stream, KEYS[2] retry ZSET, KEYS[3] DLQ stream, KEYS[4] set of lanes; ARGV[1] group, ARGV[2] what a lane's key begins
-- with. Returns {entries, pending ones, ids in the ZSET, dead letters}.
local entries, pending = 0, 0
local function count(key)
    entries = entries + redis.call('XLEN', key)
    pending = pending + (redis.pcall('XPENDING', key, ARGV[1])[1] or 0)  -- none where the group is missing
end
count(KEYS[1])
for _, type in ipairs(redis.call('SMEMBERS', KEYS[4])) do count(ARGV[2] .. type) end
return {entries, pending, redis.call('ZCARD', KEYS[2]), redis.call('XLEN', KEYS[3])}
