-- Deletes the meta of a topic whose sequence is not the one that was seen; see connection/epochs.rs.
--
-- KEYS     1 meta   2 log
-- ARGV     1 epoch   2 offset   3 id of what was seen last; no id if it is not known
-- returns  1 if a new epoch begins

local meta, log = KEYS[1], KEYS[2]
local epoch, offset, id = ARGV[1], ARGV[2], ARGV[3]

local function continues(stored, stored_id)
  local seen = tonumber(offset)
  if not stored or stored < seen then return false end
  if id == '' then return true end
  if stored == seen then return stored_id == id end
  local entry = redis.call('XRANGE', log, offset, offset)[1]
  if entry then return entry[2][4] == id end
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  return not first or tonumber(string.match(first[1], '^%d+')) > seen
end

local stored = redis.call('HMGET', meta, 'epoch', 'offset', 'id')
if stored[1] ~= epoch or continues(tonumber(stored[2]), stored[3]) then return 0 end
return redis.call('DEL', meta)
