-- Reads a page of what has changed, or of all. Writes nothing.
--
-- ARGV     1 version after which to begin   2 most records of a page
--          3 version and 4 floor of the page before; 0 for the first
--          5 latest version that the caller has seen   6 id of the table that it knows; empty if
--          that does not matter
-- returns  { version of the latest change, floor, 1 if the page is the first of all,
--            id of the table; empty if it is not whole, or older than what the caller has seen,
--            where the next page begins; empty if there is none,
--            { { key, its version, value or nothing, for how long (ms) }, … } }

local LONGEST = 10 * 365 * 24 * 60 * 60 * 1000

local after = tonumber(ARGV[1])
local id = is_whole and last >= tonumber(ARGV[5]) and stored[4] or ''
local is_lost = last < math.max(after, tonumber(ARGV[3]))
local is_untold = floor > math.max(after, tonumber(ARGV[4]))
local is_another = ARGV[6] ~= '' and ARGV[6] ~= id
local is_all = after == 0 or is_lost or is_untold or is_another
local from = is_all and '0' or '(' .. ARGV[1]

local page = {}
local found = redis.call('ZRANGEBYSCORE', versions, from, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for n = 1, #found, 2 do
  local key, version = found[n], version_of(found[n + 1])
  if version then
    local left = math.min(tonumber(redis.call('ZSCORE', ends, key) or 0) - now, LONGEST)
    local value = left > 0 and redis.call('HGET', values, key)
    -- Whole milliseconds: the one that has begun is not promised.
    page[#page + 1] = { key, version, value, value and math.max(left - 1, 1) or 0 }
  end
end
local is_last = #found < 2 * ARGV[2]
return { last, floor, is_all and 1 or 0, id, is_last and '' or found[#found], page }
