-- A node says that a user is in a topic.
--
-- KEYS     … 4 leases of all nodes
-- ARGV     … 2 node   3 user   4 info
-- returns  0 if the node has no lease: it was taken for dead, and must not come back in
--          parts

local user, info = ARGV[3], ARGV[4]
local nodes, known = look_up(user)
if tonumber(redis.call('ZSCORE', KEYS[4], ARGV[2]) or 0) == 0 then return 0 end
-- A full Redis refuses a script nothing after its first write, and a removal it never refuses:
-- joins need so little that they go on.
redis.call('SREM', held, '')
if redis.call('SADD', held, user) == 1 then
  redis.call('SADD', topics, channel)
  redis.call('HSET', members, user, nodes + 1 .. ':' .. info)
  if nodes == 0 then announce(3, user, info) end
elseif nodes > 0 and known ~= info then
  -- Back before the going was told, as somebody else: no news, but what is read is right.
  redis.call('HSET', members, user, nodes .. ':' .. info)
end
return 1
