-- A page of the rooms that have occupants. Removes those that have none any longer: of a node that died, or
-- whose members Redis lost.
--
-- KEYS     1 rooms that have occupants: 'r.<room>'
-- ARGV     1 prefix of all names   2 where the page begins, and 3 ends, as ZRANGEBYLEX takes
--          it   4 most rooms that are looked at
-- returns  { room, number of occupants, … }; 0 for one that is no longer occupied

local rooms, prefix = KEYS[1], ARGV[1]
local page, left = {}, {}
for n, room in ipairs(redis.call('ZRANGEBYLEX', rooms, ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])) do
  -- A key of the wrong type must not fail the page: its room counts as empty. One of the fields is the
  -- version.
  local fields = redis.pcall('HLEN', prefix .. ':{' .. room .. '}:members')
  if fields == 0 then left[#left + 1] = room end
  page[2 * n - 1] = room
  page[2 * n] = type(fields) == 'number' and math.max(fields - 1, 0) or 0
end
if #left > 0 then redis.pcall('ZREM', rooms, unpack(left)) end
return page
