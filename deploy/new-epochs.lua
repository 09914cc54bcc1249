-- Gives all rooms of a Redis that was restored from a backup a new epoch, while no server runs, and
-- returns how many keys have changed. Explained in docs/backup.md; the names and forms of keys are those
-- of docs/redis.md.
-- ARGV: the prefix; an epoch that was never used, 8 letters or digits.
local prefix, epoch = ARGV[1], ARGV[2]
assert(epoch and epoch:match('^%w%w%w%w%w%w%w%w$'), 'the epoch must have 8 letters or digits')

local function renew(key)
    local kind = redis.call('TYPE', key).ok
    if kind == 'list' then
        redis.call('LSET', key, 0, epoch .. redis.call('LINDEX', key, 0):sub(9))
    elseif kind == 'string' and key:sub(-9) == ':position' then
        redis.call('SETRANGE', key, 0, epoch)
    else
        return 0
    end
    return 1
end

local cursor, changed = '0', 0
repeat
    local page = redis.call('SCAN', cursor, 'MATCH', prefix .. ':{*}*', 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do
        changed = changed + renew(key)
    end
until cursor == '0'
return changed
