-- What set_record.lua and read_records.lua begin with.
--
-- KEYS     1 meta: version of the latest change, floor: a reader below it has to read all:
--            what has changed, run: of the Redis that made it
--          2 values of the records   3 keys by version, of records that were removed too
--          4 keys by when they are forgotten (ms)

local meta, values, versions, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local stored = redis.call('HMGET', meta, 'version', 'floor', 'run')
local last, floor = tonumber(stored[1] or 0) or 0, tonumber(stored[2] or 0) or 0
