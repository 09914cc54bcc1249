-- The common part of history.lua, position.lua, recover.lua and end_epoch.lua. What is in the log of
-- a topic, and in its position, is in publish.lua.
--
-- KEYS     1 log   2 position

local call = redis.call
local log, position = KEYS[1], KEYS[2]
local EPOCH, MAX_OFFSET = '^%w%w%w%w%w%w%w%w', 2 ^ 53 - 1

-- Returns epoch, offset of the last publication, base of the log and how many entries may be read.
-- Nothing if nothing is stored; false if it makes no sense.
local function read_log()
  local head = call('LINDEX', log, '0')
  if head then
    if #head ~= 44 or not string.find(head, EPOCH) then return false end
    local epoch, base, kept = struct.unpack('>c8I8I4', head)
    local count = call('LLEN', log) - 1
    if base + count > MAX_OFFSET then return false end
    return epoch, base + count, base, math.min(count, kept)
  end
  local stored = call('GET', position)
  if not stored then return nil end
  if #stored ~= 24 or not string.find(stored, EPOCH) then return false end
  local epoch, offset = struct.unpack('>c8I8', stored)
  if offset > MAX_OFFSET then return false end
  return epoch, offset, offset, 0
end

-- The id of the last publication.
local function last_id()
  local last = call('LINDEX', log, '-1')
  -- A log without entries has its head alone.
  if last and call('LLEN', log) > 1 then return string.sub(last, 1, 8) end
  return string.sub(call('GET', position) or '', 17)
end
