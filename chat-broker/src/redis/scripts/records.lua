-- What set_record.lua, read_records.lua and restore_records.lua begin with.
--
-- KEYS     1 meta: version of the latest change, floor: a reader below it has to read all:
--            what has changed, run: of the Redis that made it, table: id of the table
--          2 values of the records   3 keys by version, of records that were removed too
--          4 keys by when they are forgotten (ms)
--
-- Redis may lose each of the four alone: evicted, deleted, or with an older copy of its data. So
-- each holds a mark under the empty name, which no record has: the table is whole if all are
-- there, in the process that made the latest change.

local meta, values, versions, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local MARK_VERSION, MARK_END, EXACT = -1, '+inf', 2 ^ 53

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

-- A version as read from Redis; nil if it is malformed.
local function version_of(text)
  local version = tonumber(text or nil)
  return version and version >= 0 and version <= EXACT and version or nil
end

local stored = redis.call('HMGET', meta, 'version', 'floor', 'run', 'table')
local last, floor = version_of(stored[1]) or 0, version_of(stored[2]) or 0

-- A user without the right to ask which process this is does without.
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or stored[3] or ''

local marks = {
  redis.call('HGET', values, ''),
  redis.call('ZSCORE', versions, ''),
  redis.call('ZSCORE', ends, ''),
}
local is_whole = last > 0 and stored[4] and stored[3] == run
  and marks[1] == stored[4] and marks[2] and marks[3] and true
