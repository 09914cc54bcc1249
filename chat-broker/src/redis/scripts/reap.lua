-- Removes some of the users that an expired node held in a topic.
--
-- ARGV     … 3 how many at most
-- returns  how many there were

check_rights()
local users = call('SRANDMEMBER', held, ARGV[3])
for _, user in ipairs(users) do
  local before, info = read_member(user)
  if info then
    -- What it is already, as the proof of HSET.
    call('HSET', members, user, before .. ':' .. info)
    call('SREM', held, user)
    set_nodes(user, info, before, count_nodes(user) or math.max(before - 1, 0))
  else
    call('SREM', held, user)
    -- As in leave.lua.
    if (count_nodes(user) or 0) == 0 then set_nodes(user, '', 0, 0) end
  end
end
forget_empty_topic()
return #users
