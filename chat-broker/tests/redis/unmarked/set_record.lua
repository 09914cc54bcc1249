-- Sets a record or removes it, and notifies all nodes, in one atomic step. What can fail comes
-- before the first write: nothing is rolled back.
--
-- ARGV     1 channel   2 key   3 '1': set, '0': remove   4 value   5 lifetime (ms); of a
--          record that is removed, how long that is known   6 most records
-- returns  0 if there are as many already

local channel, key, is_set, most = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[6])
-- Another process may have come back with older data. A node without the right to ask does without.
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
redis.call('ZSCORE', versions, key)
redis.call('HLEN', values)
local over = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 512)

local function forget(name)
  floor = math.max(floor, tonumber(redis.call('ZSCORE', versions, name) or 0))
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
if not known and redis.call('HLEN', values) >= most then return 0 end

local version = math.max(last + 1, micros)
local is_kept = is_set
if is_set then
  redis.call('HSET', values, key, ARGV[4])
else
  redis.call('HDEL', values, key)
  is_kept = redis.call('ZCARD', versions) <= most
end
redis.call('ZADD', versions, version, key)
-- The millisecond that has begun does not count: nothing ends before its time.
redis.call('ZADD', ends, now + ARGV[5] + 1, key)
if not is_kept then forget(key) end
if last == 0 or stored[3] ~= run then floor = version end
redis.call('HSET', meta, 'version', string.format('%d', version),
  'floor', string.format('%d', floor), 'run', run)
redis.call('PUBLISH', channel, '')
return 1
