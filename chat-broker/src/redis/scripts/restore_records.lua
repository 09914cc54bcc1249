-- Writes what a node holds of a table that Redis has lost, in whole or in part. Of each key the
-- latest version is kept, in any order of writes and however often: what a node has missed undoes
-- nothing. What can fail is before the first write.
--
-- ARGV     1 channel   2 id of a table that begins   3 latest version that the caller has seen
--          4 most records
--          5… of each record: key, version, '1': a value, '0': it was removed, value, lifetime (ms)
-- returns  how many records were written

local channel, most = ARGV[1], tonumber(ARGV[4])
local id = is_whole and last >= tonumber(ARGV[3]) and stored[4] or ARGV[2]
local is_readable = redis.call('EXISTS', versions, ends) == 2

-- Never refused for want of memory, and so is nothing after it.
redis.call('HDEL', meta, '')
-- What has no version or no end cannot be read; the caller holds what could. A table that lacks only
-- a mark stays, as one that a server without marks has written: other servers read it at this moment.
if not is_readable then redis.call('DEL', values, versions, ends) end

local function restore(key, version, has_value, value, left)
  local there = version_of(redis.call('ZSCORE', versions, key))
  local known = redis.call('HGET', values, key)
  -- Without an end a value cannot be read, and a removal is never forgotten.
  local is_whole_row = redis.call('ZSCORE', ends, key) and (known or not has_value)
  local is_lost = not there or there < version or there == version and not is_whole_row
  -- The mark is no record, and may be missing.
  local has_room = not has_value or known or redis.call('HLEN', values) <= most
  if not (is_lost and has_room) then return 0 end
  if has_value then
    redis.call('HSET', values, key, value)
  else
    redis.call('HDEL', values, key)
  end
  redis.call('ZADD', versions, version, key)
  redis.call('ZADD', ends, now + left, key)
  return 1
end

local restored = 0
for n = 5, #ARGV, 5 do
  local key, version, value, left = ARGV[n], tonumber(ARGV[n + 1]), ARGV[n + 3], ARGV[n + 4]
  restored = restored + restore(key, version, ARGV[n + 2] == '1', value, left)
end
if restored > 0 or id ~= stored[4] then
  -- Old versions are new to those who have read on: they read all.
  local version = string.format('%d', math.max(last + 1, micros, ARGV[3] + 1))
  redis.call('HSET', meta, 'version', version, 'floor', version, 'run', run, 'table', id)
  redis.call('HSET', values, '', id)
  redis.call('ZADD', versions, MARK_VERSION, '')
  redis.call('ZADD', ends, MARK_END, '')
end
if restored > 0 then redis.call('PUBLISH', channel, '') end
return restored
