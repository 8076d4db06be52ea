-- What the DLQ stream shows, in short. KEYS as for letters.lua. Returns `amount:sum`, or nil when others wrote or deleted.
local info, field = redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XINFO', 'STREAM', KEYS[1]) or {}, {}
for at = 1, #info, 2 do field[info[at]] = info[at + 1] end
local amount, known = redis.call('ZCARD', KEYS[2]), redis.call('HMGET', KEYS[3], 'sum', 'last')
local own = (field['length'] or 0) == amount and (field['last-generated-id'] or '0-0') == (known[2] or '0-0')
return own and amount .. ':' .. (known[1] or '0') or nil
