-- Gives a publication the next offset of its topic and hands it on, in one atomic step.
--
-- KEYS[1]  hash of the topic: epoch, offset
-- ARGV     1 channel   2 epoch for a sequence that begins   3 least lifetime of the hash (s)
--          4 payload
-- returns  { offset, epoch, subscribed connections }

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[2]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
-- Doubled, so that a busy topic is not written to twice for each publication.
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('EXPIRE', KEYS[1], 2 * ARGV[3])
end
local message = '\1' .. struct.pack('>I8', offset) .. epoch .. ARGV[4]
return { offset, epoch, redis.call('PUBLISH', ARGV[1], message) }
