-- Read a worker's share of what waits, without waiting: what is undelivered or pending, divided by the group's consumers,
-- less what this one holds; first of the lanes, as fewer workers can run that.
-- KEYS lanes, and the stream last; ARGV[1] group, ARGV[2] consumer, ARGV[3] how many at most, ARGV[4] how many whatever the share.
-- Returns {how many wait still, an XREADGROUP reply for each key that had some, how many of the stream's are left to read
-- without a script}: more than ARGV[5] of them cost twice as much through Lua.
local room, least, waiting, found, left = tonumber(ARGV[3]), tonumber(ARGV[4]), 0, {}, 0
for _, key in ipairs(KEYS) do
    local groups, known = redis.pcall('XINFO', 'GROUPS', key), false
    for _, group in ipairs(groups) do
        local field = {}
        for at = 1, #group, 2 do field[group[at]] = group[at + 1] end
        if field['name'] == ARGV[1] then
            known = true
            local lag, own = field['lag'] or room, 0
            if lag > 0 then
                local most = lag
                if field['consumers'] > 1 then
                    for _, each in ipairs(redis.call('XPENDING', key, ARGV[1])[4] or {}) do
                        if each[1] == ARGV[2] then own = tonumber(each[2]) end
                    end
                    most = math.max(math.ceil((lag + field['pending']) / field['consumers']) - own, least)
                end
                most = math.min(most, room, lag)
                if most > tonumber(ARGV[5]) and key == KEYS[#KEYS] then
                    left, lag = most, lag - most
                elseif most > 0 then
                    local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', most, 'STREAMS', key, '>')
                    local count = read and #read[1][2] or 0
                    if count > 0 then found[#found + 1] = read[1] end
                    room, least = room - count, least - count
                    lag = read and lag - count or 0
                end
                waiting = waiting + lag
            end
        end
    end
    if not known then return redis.error_reply('NOGROUP no consumer group ' .. ARGV[1]) end
end
return {waiting, found, left}
