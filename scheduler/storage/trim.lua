-- Remove acknowledged entries up to the oldest one that is not; a job that runs for long has none.
-- KEYS[1] stream; ARGV[1] group. Returns how many.
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > 0 then return redis.call('XTRIM', KEYS[1], 'MINID', pending[2]) end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local field = {}
    for at = 1, #group, 2 do field[group[at]] = group[at + 1] end
    if field['name'] == ARGV[1] then
        local ms, seq = string.match(field['last-delivered-id'], '^(%d+)-(%d+)$')
        -- a number of more than 15 digits is inexact here, and the next one perhaps none any more
        local next_id = #seq > 15 and string.format('%.0f-0', ms + 1) or ms .. '-' .. string.format('%.0f', seq + 1)
        return redis.call('XTRIM', KEYS[1], 'MINID', next_id)
    end
end
return 0
