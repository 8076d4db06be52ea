-- Take the turn, or keep it; then say how long the oldest entry that no consumer has read yet has been queued.
-- KEYS[1] stream, KEYS[2] turn; ARGV[1] group, ARGV[2] who asks, ARGV[3] how many ms the turn lasts. Returns {0, ms that another's
-- turn still lasts}, or {1, ms; 0: nothing waits, everything published earlier has been delivered; -1: there is no such group}.
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return {0, redis.call('PTTL', KEYS[2])} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if redis.call('XLEN', KEYS[1]) == 0 then return {1, 0} end  -- a group that is missing is made by whoever reads
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local field = {}
    for at = 1, #group, 2 do field[group[at]] = group[at + 1] end
    if field['name'] == ARGV[1] then
        local next_entry = redis.call('XRANGE', KEYS[1], '(' .. field['last-delivered-id'], '+', 'COUNT', 1)[1]
        if not next_entry then return {1, 0} end
        local now = redis.call('TIME')
        local queued = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(string.match(next_entry[1], '^%d+'))
        return {1, math.max(queued, 1)}
    end
end
return {1, -1}
