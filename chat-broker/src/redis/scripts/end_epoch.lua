-- Deletes the sequence of a topic if it is not the one that was seen; see connection/epochs.rs.
--
-- ARGV     1 epoch   2 offset   3 id of what was seen last; no id if it is not known
-- returns  1 if a new epoch begins

local epoch, last, base = read_log()
local seen, id = tonumber(ARGV[2]), ARGV[3]

local function continues()
  if last < seen then return false end
  if id == '' then return true end
  if last == seen then return last_id() == id end
  -- An entry that was trimmed cannot be compared.
  return seen <= base or string.sub(call('LINDEX', log, seen - base) or '', 1, 8) == id
end

if epoch ~= ARGV[1] or continues() then return 0 end
return call('DEL', log, position) > 0 and 1 or 0
