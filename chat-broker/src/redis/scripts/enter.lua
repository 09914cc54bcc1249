-- A node says that a user is in a topic.
--
-- ARGV     … 3 user   4 info   5 '1': this is the latest info of the user, else what the node
--          has said before: the members may know a later one
-- returns  0 if the node has no lease: it was taken for dead, and must not come back in
--          parts

local user, info, is_latest = ARGV[3], ARGV[4], ARGV[5] == '1'
if tonumber(call('ZSCORE', leases, node) or 0) == 0 then return 0 end
prove()
local before, known = look_up(user)
local version = call('HGET', members, '')
local is_new = call('SADD', held, user) == 1
local is_new_here = call('SADD', topics, channel) == 1
-- What the members say may include this node already: only its own set was lost. One node too many
-- would keep the user there for good, if all nodes leave before reconcile.lua has counted them.
local nodes = before == 0 and 1 or count_nodes(user) or before + (is_new and 1 or 0)
local latest = known and not is_latest and known or info
if nodes ~= before or latest ~= known then
  local written = redis.pcall('HSET', members, user, nodes .. ':' .. latest)
  if type(written) == 'table' then
    if is_new then
      call('SREM', held, user)
      tidy()
    end
    return written
  end
end
if not (known and version) then
  announce(3, next_version(), user, latest)
elseif latest ~= known then
  announce(5, next_version(), user, latest)
end
if is_new_here then look_after() end
return 1
