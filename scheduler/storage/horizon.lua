-- How long the oldest entry that no consumer has read yet has been queued.
-- KEYS[1] stream; ARGV[1] group. Returns ms; 0: nothing waits. Everything published earlier has been delivered.
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local field = {}
    for at = 1, #group, 2 do field[group[at]] = group[at + 1] end
    if field['name'] == ARGV[1] then
        local next_entry = redis.call('XRANGE', KEYS[1], '(' .. field['last-delivered-id'], '+', 'COUNT', 1)[1]
        if not next_entry then return 0 end
        local now = redis.call('TIME')
        local queued = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(string.match(next_entry[1], '^%d+'))
        return math.max(queued, 1)
    end
end
return redis.error_reply('NOGROUP no consumer group ' .. ARGV[1])
