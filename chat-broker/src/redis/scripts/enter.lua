-- A node starts to hold a user in a topic.
--
-- ARGV     … 3 user   4 info   5 '1': this is the latest info of the user; else one that the
--          node has set before: `members` may have a later one
-- returns  0 if the node has no lease: it has expired, and must send all its users under a new
--          name

local user, info, is_latest = ARGV[3], ARGV[4], ARGV[5] == '1'
if tonumber(call('ZSCORE', leases, node) or 0) == 0 then return 0 end
check_rights()
local before, known = read_member(user)
local version = call('HGET', members, '')
local is_new = call('SADD', held, user) == 1
local is_new_here = call('SADD', topics, channel) == 1
-- The number in `members` may include this node already, if only its own set was lost. One node too many
-- would keep the user there for good, if all nodes leave before reconcile.lua has counted them.
local nodes = before == 0 and 1 or count_nodes(user) or before + (is_new and 1 or 0)
local latest = known and not is_latest and known or info
if nodes ~= before or latest ~= known then
  local written = redis.pcall('HSET', members, user, nodes .. ':' .. latest)
  if type(written) == 'table' then
    if is_new then
      call('SREM', held, user)
      forget_empty_topic()
    end
    return written
  end
end
if not (known and version) then
  announce(3, next_version(), user, latest)
elseif latest ~= known then
  announce(5, next_version(), user, latest)
end
if is_new_here then extend_lifetime() end
return 1
