-- Take the turn, or keep it; then say how long the oldest entry that no consumer has read yet has been queued.
-- KEYS[1] stream, KEYS[2] turn, KEYS[3] set of lanes; ARGV[1] group, ARGV[2] who asks, ARGV[3] how many ms the turn lasts, ARGV[4]
-- what a lane's key begins with. Returns {0, ms that another's turn still lasts}, or {1, ms; 0: nothing waits, everything
-- published earlier has been delivered; -1: there is no such group}.
local holder = redis.call('GET', KEYS[2])
local left = redis.call('PTTL', KEYS[2])  -- a turn without an end, or with a later one, is none that was taken here
if holder and holder ~= ARGV[2] and left > 0 and left <= tonumber(ARGV[3]) then return {0, left} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if redis.call('XLEN', KEYS[1]) == 0 and redis.call('EXISTS', KEYS[3]) == 0 then return {1, 0} end
local now, oldest = redis.call('TIME'), 0
now = now[1] * 1000 + math.floor(now[2] / 1000)
local function look(key)
    if redis.call('XLEN', key) == 0 then return true end  -- a group that is missing is made by whoever reads
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
if not look(KEYS[1]) then return {1, -1} end
for _, type in ipairs(redis.call('SMEMBERS', KEYS[3])) do look(ARGV[4] .. type) end
return {1, oldest}
