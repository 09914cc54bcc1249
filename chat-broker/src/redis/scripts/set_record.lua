-- Sets a record or removes it, and notifies all nodes, in one atomic step. What can fail is
-- before the first write: nothing is rolled back.
--
-- ARGV     1 channel   2 key   3 '1': set, '0': remove   4 value   5 lifetime (ms); of a
--          record that is removed, how long that is known   6 most records
--          7 latest version that the caller has seen
-- returns  1 if it is done; 0 if there are as many already; -1 if the table is not whole, and what
--          servers hold of it has to be written first: no node would know what was removed

if not is_whole then return -1 end

local channel, key, is_set, most = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[6])
redis.call('ZSCORE', versions, key)
local over = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 512)

local function forget(name)
  floor = math.max(floor, version_of(redis.call('ZSCORE', versions, name)) or 0)
  redis.call('ZREM', ends, name)
  redis.call('ZREM', versions, name)
  redis.call('HDEL', values, name)
end

-- A full Redis refuses nothing of a script after its first write, and this is one
-- that it never refuses for that: there is always room for a ban.
redis.call('HDEL', meta, '')
for _, name in ipairs(over) do
  forget(name)
end
if #over > 0 then redis.call('HSET', meta, 'floor', string.format('%d', floor)) end

local known = redis.call('HGET', values, key)
if not (known or is_set) then return 1 end
-- The marks are none of them.
if not known and redis.call('HLEN', values) > most then return 0 end

local version = math.max(last + 1, micros, ARGV[7] + 1)
local is_kept = is_set
if is_set then
  redis.call('HSET', values, key, ARGV[4])
else
  redis.call('HDEL', values, key)
  is_kept = redis.call('ZCARD', versions) <= most + 1
end
redis.call('ZADD', versions, version, key)
-- The millisecond that has begun does not count: nothing ends before its time.
redis.call('ZADD', ends, now + ARGV[5] + 1, key)
if not is_kept then forget(key) end
redis.call('HSET', meta, 'version', string.format('%d', version),
  'floor', string.format('%d', floor))
redis.call('PUBLISH', channel, '')
return 1
