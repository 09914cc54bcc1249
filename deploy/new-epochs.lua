-- Gives a room a new epoch: for each key of a Redis that was restored from a backup, while no server
-- runs. Explained in docs/backup.md; the names and forms of keys are those of docs/redis.md.
-- KEYS: a key. ARGV: an epoch that was never used, 8 letters or digits.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'list' then
    local head = redis.call('LINDEX', KEYS[1], 0)
    redis.call('LSET', KEYS[1], 0, ARGV[1] .. head:sub(9))
elseif kind == 'string' and KEYS[1]:sub(-9) == ':position' then
    redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
end
