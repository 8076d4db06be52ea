-- Take jobs off the DLQ stream, put others on it, each exactly once however often this is repeated; those of the newest ids stay.
-- KEYS[1] DLQ stream, KEYS[2] ZSET of `id entry hash` in the order of ids, KEYS[3] hash: `sum` of the hashes modulo 2^48, `last`
-- entry written here; ARGV[1] how many stay, ARGV[2] how many ids follow that go, then these, then id, hash, type, error, …
local sum, last = unpack(redis.call('HMGET', KEYS[3], 'sum', 'last'))
sum, last = tonumber(sum) or 0, last or '0-0'
local function held(id) return redis.call('ZRANGEBYLEX', KEYS[2], '[' .. id .. ' ', '(' .. id .. '!')[1] end
local function drop(member)
    local entry, hash = string.match(member, '(%S+) (%d+)$')
    redis.call('ZREM', KEYS[2], member)
    if not entry then return end  -- another's: the digest shows it, and all begins anew
    redis.pcall('XDEL', KEYS[1], entry)
    sum = (sum - hash) % 2 ^ 48
end
for at = 3, 2 + ARGV[2] do
    local member = held(ARGV[at])
    if member then drop(member) end
end
for at = 3 + ARGV[2], #ARGV, 4 do
    local id, hash = ARGV[at], ARGV[at + 1]
    if not held(id) then
        last = redis.call('XADD', KEYS[1], '*', 'id', id, 'type', ARGV[at + 2], 'error', ARGV[at + 3])
        redis.call('ZADD', KEYS[2], 0, id .. ' ' .. last .. ' ' .. hash)
        sum = (sum + hash) % 2 ^ 48
        if redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[1]) then drop(redis.call('ZRANGE', KEYS[2], 0, 0)[1]) end
    end
end
redis.call('HSET', KEYS[3], 'sum', string.format('%.0f', sum), 'last', last)
