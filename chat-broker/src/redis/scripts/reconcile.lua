-- Compares a topic with what the nodes say: names those users of a node that Redis does not
-- know, for the node to send again, and repairs a part of the members.
--
-- ARGV     … 3 where the part of the members begins; '' for none   4… users whom the node holds
-- returns  { where the next part begins, '' if there is none, { users that are not known } }

local cursor = ARGV[3]
if tonumber(call('ZSCORE', leases, node) or 0) == 0 then return { '', {} } end
local is_known = call('HGET', members, '') and call('SISMEMBER', topics, channel) == 1
local unknown = {}
for n = 4, #ARGV do
  local user = ARGV[n]
  if not (is_known and call('HGET', members, user) and call('SISMEMBER', held, user) == 1) then
    unknown[#unknown + 1] = user
  end
end
extend_lifetime()

-- One node scans the members for all: the first of those that are alive and here.
local function is_first()
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local alive = call('ZRANGEBYSCORE', leases, now, '+inf')
  table.sort(alive)
  for _, one in ipairs(alive) do
    if call('EXISTS', channel .. ':on:' .. one) == 1 then return one == node end
  end
  return false
end

if cursor == '' or not is_first() then return { '', unknown } end
local part = call('HSCAN', members, cursor, 'COUNT', 100)
for n = 1, #part[2], 2 do
  local user = part[2][n]
  local before, info = parse(part[2][n + 1])
  -- The version has no name.
  local now = user ~= '' and count_nodes(user)
  if now and (now ~= before or not info) then
    check_rights()
    -- What cannot be read is removed, too: its nodes say it again.
    set_nodes(user, info or '', before, info and now or 0)
  end
end
return { part[1] == '0' and '' or part[1], unknown }
