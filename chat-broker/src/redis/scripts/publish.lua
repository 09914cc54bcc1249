-- Gives a publication the next offset of its topic, keeps it, and hands it on, in one
-- atomic step. What can fail comes before the first write: nothing is rolled back.
--
-- KEYS     1 meta: epoch, offset and id of the last   2 log   3 record of the key (optional)
-- ARGV     1 channel   2 epoch for a sequence that begins   3 id of the publication
--          4 entries kept   5 lifetime of the log (ms)   6 least lifetime of meta (s)
--          7 payload
-- returns  { offset, epoch, subscribed connections, 1 if an earlier one has the key }

local meta, log, record = KEYS[1], KEYS[2], KEYS[3]
local channel, id, payload = ARGV[1], ARGV[3], ARGV[7]

if record then
  local first = redis.call('GET', record)
  if first then
    -- Sent again after its answer was lost, it is no repetition.
    local own = string.sub(first, 9, 16) == id
    return { tonumber(string.sub(first, 17)), string.sub(first, 1, 8), 0, own and 0 or 1 }
  end
end
local stored = redis.call('HMGET', meta, 'epoch', 'offset')
local epoch, offset = stored[1], tonumber(stored[2])
if not (epoch and #epoch == 8 and offset) then
  epoch, offset = ARGV[2], 0
  -- Of the sequence before: its ids may lie above ours, and its entries are not ours. Only
  -- if there is one: for want of memory Redis refuses a script no more after a first write.
  if redis.call('EXISTS', log) == 1 then redis.call('DEL', log) end
end
offset = offset + 1
local place = string.format('%d', offset)
redis.call('XADD', log, 'MAXLEN', ARGV[4], place .. '-0', 'd', payload, 'i', id)
redis.call('PEXPIRE', log, ARGV[5])
redis.call('HSET', meta, 'epoch', epoch, 'offset', place, 'id', id)
-- Doubled, so that a busy topic is not written to twice for each publication.
if redis.call('TTL', meta) < tonumber(ARGV[6]) then
  redis.call('EXPIRE', meta, 2 * ARGV[6])
end
local message = '\2' .. struct.pack('>I8', offset) .. epoch .. id .. payload
local nodes = redis.call('PUBLISH', channel, message)
if record then redis.call('SET', record, epoch .. id .. place, 'EX', 300) end
return { offset, epoch, nodes, 0 }
