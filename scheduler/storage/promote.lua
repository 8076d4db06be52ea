-- Move ids whose time has come from the retry ZSET to the stream, in one step: an id is always in one of the two. What is no
-- id is removed.
-- KEYS[1] retry ZSET, KEYS[2] stream; ARGV[1] now in epoch ms, ARGV[2] how many at most. Returns {how many left the ZSET, those
-- that were no ids}.
local due, wrong = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2]), {}
for _, id in ipairs(due) do
    if #id == 16 then redis.call('XADD', KEYS[2], '*', 'id', id) else wrong[#wrong + 1] = id end
end
if #due > 0 then
    redis.call('ZREM', KEYS[1], unpack(due))
end
return {#due, wrong}
