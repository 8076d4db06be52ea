-- Put job ids on the stream.
-- KEYS[1] stream; ARGV[1] ids, 16 raw bytes each, packed. Returns how many.
local packed, added = ARGV[1], 0
for at = 1, #packed, 16 do
    redis.call('XADD', KEYS[1], '*', 'id', string.sub(packed, at, at + 15))
    added = added + 1
end
return added
