-- Say what is wrong with a key: our rights to it, its type, or ids that no entry or delivery can follow; and put it aside for a
-- day if asked to: what the record says is indexed anew.
-- KEYS[1] key; ARGV[1] the type that it must have, ARGV[2] group, ARGV[3] 1 to put it aside. Returns the flaw, or nil.
local key, wanted, group = KEYS[1], ARGV[1], ARGV[2]
local needed = {
    stream = {
        {'XADD', key, '*', 'id', ''}, {'XACK', key, group, '0-0'}, {'XINFO', 'STREAM', key},
        {'XREADGROUP', 'GROUP', group, '', 'STREAMS', key, '>'},
    },
    zset = {{'ZADD', key, '0', ''}, {'ZREM', key, ''}},
    set = {{'SADD', key, ''}, {'SMEMBERS', key}},
    hash = {{'HSET', key, '', ''}},
    string = {{'SET', key, ''}, {'GET', key}},
}
for _, command in ipairs(needed[wanted]) do
    if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(command)) then return 'no right to ' .. command[1] end
end
local function fields(list)
    local found = {}
    for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
    return found
end
local function parts(id)
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(seq)
end
local function flaw()
    local type = redis.call('TYPE', key).ok
    if type == 'none' then return nil end
    if type ~= wanted then return 'it is a ' .. type .. ', and a ' .. wanted .. ' is needed' end
    if type ~= 'stream' then return nil end
    local last = fields(redis.call('XINFO', 'STREAM', key))['last-generated-id']
    local ms, seq = parts(last)
    if ms > redis.call('TIME')[1] * 1000 + 60000 then return 'its ids are used up, or ahead of the clock: ' .. last end
    for _, each in ipairs(redis.call('XINFO', 'GROUPS', key)) do
        each = fields(each)
        local read_ms, read_seq = parts(each['last-delivered-id'])
        if each['name'] == group and (read_ms > ms or read_ms == ms and read_seq > seq) then
            return 'its group has read past its end: ' .. each['last-delivered-id']
        end
    end
end
local found = flaw()
local aside = (string.sub(key, 1, 1) == '{' and key or '{' .. key .. '}') .. ':aside'  -- in the same slot of a cluster
if found and ARGV[3] == '1' then
    if redis.pcall('RENAME', key, aside).err then return found end
    redis.call('EXPIRE', aside, 86400)
    found = found .. '; it is now ' .. aside .. ', for a day'
end
return found
