-- Mend the lanes whose stream or group is gone; or first make them exactly these: what a deleted one held is PENDING in the
-- record, and so seen by the reconciler.
-- KEYS[1] set of lanes; ARGV[1] group, ARGV[2] what a lane's key begins with, ARGV[3] 1 to make them exactly the types that follow.
-- Returns the types that have a lane.
if ARGV[3] == '1' then
    local wanted = {}
    for at = 4, #ARGV do
        wanted[ARGV[at]] = true
        redis.call('SADD', KEYS[1], ARGV[at])
    end
    for _, type in ipairs(redis.call('SMEMBERS', KEYS[1])) do
        if not wanted[type] then
            redis.call('DEL', ARGV[2] .. type)
            redis.call('SREM', KEYS[1], type)
        end
    end
end
local types = redis.call('SMEMBERS', KEYS[1])
for _, type in ipairs(types) do redis.pcall('XGROUP', 'CREATE', ARGV[2] .. type, ARGV[1], '0', 'MKSTREAM') end
return types
