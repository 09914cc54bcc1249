-- A node stops holding a user in a topic.
--
-- ARGV     … 3 user
-- returns  the version of the event; 0 if there is none

local user = ARGV[3]
local before, info = read_member(user)
check_rights()
-- What it is already, as the proof of HSET.
if info then call('HSET', members, user, before .. ':' .. info) end
local was_held = call('SREM', held, user) == 1
forget_empty_topic()
-- The field of a user whom the node held was lost. Servers list the user nevertheless, so the leave
-- is announced, unless another node holds the user and says so again.
if not info then
  if not was_held or (count_nodes(user) or 0) > 0 then return 0 end
  return set_nodes(user, '', 0, 0)
end
-- If the set of a node was lost, only the others know whether the user is still there.
local rest = was_held and before - 1 or before
local now = was_held and rest <= 0 and 0 or count_nodes(user) or rest
return set_nodes(user, info, before, math.max(now, 0))
