-- Remove what is no id from the retry ZSET, whenever it is due: found in a sample, so that a large ZSET costs little; after a
-- drain nothing else is left to be found.
-- KEYS[1] retry ZSET; ARGV[1] how large the sample is. Returns what was removed.
local wrong = {}
for _, member in ipairs(redis.call('ZRANDMEMBER', KEYS[1], ARGV[1])) do
    if #member ~= 16 then wrong[#wrong + 1] = member end
end
if #wrong > 0 then redis.call('ZREM', KEYS[1], unpack(wrong)) end
return wrong
