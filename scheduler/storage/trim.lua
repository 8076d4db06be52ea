-- Remove acknowledged entries: cheaply up to the oldest one that is not, one by one behind a straggler when many are.
-- KEYS[1] stream; ARGV[1] group, ARGV[2] how many acknowledged entries may stay behind stragglers, ARGV[3] where the
-- one-by-one walk goes on. Returns {entries removed, where the walk goes on}.
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
local delivered, undelivered = nil, nil
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local field = {}
    for at = 1, #group, 2 do field[group[at]] = group[at + 1] end
    if field['name'] == ARGV[1] then delivered, undelivered = field['last-delivered-id'], field['lag'] end
end
if not delivered then return {0, '0'} end
if pending[1] == 0 then
    local ms, seq = string.match(delivered, '^(%d+)-(%d+)$')
    return {redis.call('XTRIM', KEYS[1], 'MINID', ms .. '-' .. string.format('%.0f', seq + 1)), '0'}
end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', pending[2])
local excess = redis.call('XLEN', KEYS[1]) - pending[1] - (undelivered or 0)
if excess <= tonumber(ARGV[2]) then return {removed, ARGV[3]} end
local batch = redis.call('XRANGE', KEYS[1], '(' .. ARGV[3], delivered, 'COUNT', 500)
if #batch == 0 then return {removed, '0'} end
local last = batch[#batch][1]
local held = {}
for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], batch[1][1], last, 500)) do held[entry[1]] = true end
for _, entry in ipairs(batch) do
    if not held[entry[1]] then removed = removed + redis.call('XDEL', KEYS[1], entry[1]) end
end
return {removed, last}
