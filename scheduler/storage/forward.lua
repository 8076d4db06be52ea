-- Move deliveries of jobs that their reader cannot run to the lane of their type: each once, as only who still holds it moves it.
-- KEYS[1] stream, KEYS[2] set of lanes, KEYS[3] lane; ARGV[1] group, ARGV[2] type, then entry, id, entry, id, … Returns how many.
redis.pcall('XGROUP', 'CREATE', KEYS[3], ARGV[1], '0', 'MKSTREAM')
redis.call('SADD', KEYS[2], ARGV[2])
local moved = 0
for at = 3, #ARGV, 2 do
    if redis.call('XACK', KEYS[1], ARGV[1], ARGV[at]) == 1 then
        redis.call('XADD', KEYS[3], '*', 'id', ARGV[at + 1])
        moved = moved + 1
    end
end
return moved
