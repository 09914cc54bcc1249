-- Reads a page of what has changed, or of all. Writes nothing.
--
-- ARGV     1 version after which to begin   2 most records of a page
--          3 version and 4 floor of the page before; 0 for the first
-- returns  { version of the latest change, floor, 1 if the page is the first of all,
--            { { key, its version, value or nothing, for how long (ms) }, … } }

local after = tonumber(ARGV[1])
local is_lost = last < math.max(after, tonumber(ARGV[3]))
local is_untold = floor > math.max(after, tonumber(ARGV[4]))
local is_all = after == 0 or is_lost or is_untold
local from = is_all and '0' or '(' .. ARGV[1]

local page = {}
local found = redis.call('ZRANGEBYSCORE', versions, from, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for n = 1, #found, 2 do
  local key, version = found[n], tonumber(found[n + 1])
  local left = tonumber(redis.call('ZSCORE', ends, key) or 0) - now
  local value = left > 0 and redis.call('HGET', values, key)
  -- Whole milliseconds: the one that has begun is not promised.
  page[#page + 1] = { key, version, value, value and math.max(left - 1, 1) or 0 }
end
return { last, floor, is_all and 1 or 0, page }
