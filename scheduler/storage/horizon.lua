-- How long the oldest entry that no consumer has read yet has been queued.
-- KEYS[1] stream, KEYS[2] set of lanes; ARGV[1] group, ARGV[2] what a lane's key begins with. Returns ms; 0: nothing waits.
-- Everything published earlier has been delivered.
local now, oldest = redis.call('TIME'), 0
now = now[1] * 1000 + math.floor(now[2] / 1000)
local function look(key)
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
        local field = {}
        for at = 1, #group, 2 do field[group[at]] = group[at + 1] end
        if field['name'] == ARGV[1] then
            local next_entry = redis.call('XRANGE', key, '(' .. field['last-delivered-id'], '+', 'COUNT', 1)[1]
            if next_entry then oldest = math.max(oldest, now - tonumber(string.match(next_entry[1], '^%d+')), 1) end
            return true
        end
    end
end
if not look(KEYS[1]) then return redis.error_reply('NOGROUP no consumer group ' .. ARGV[1]) end
for _, type in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if redis.call('EXISTS', ARGV[2] .. type) == 1 then look(ARGV[2] .. type) end
end
return oldest
