-- Take jobs off the DLQ stream (redriven or purged). KEYS as for dead_letter.lua; ARGV ids. Returns how many were there.
local removed = 0
for _, id in ipairs(ARGV) do
    local entry = redis.call('HGET', KEYS[2], id)
    if entry then
        removed = removed + redis.call('XDEL', KEYS[1], entry)
        redis.call('HDEL', KEYS[2], id)
    end
end
return removed
