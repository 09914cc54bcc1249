-- Reads the position of a topic. Writes nothing.
--
-- returns  epoch; offset, 8 bytes; id of the last publication, 8 bytes or none. Empty if nothing is
--          stored, '?' if it makes no sense

local epoch, offset = read_log()
if not epoch then return epoch == nil and '' or '?' end
return epoch .. struct.pack('>I8', offset) .. last_id()
