-- Compares a topic with what the nodes say: names those users of a node that Redis does not
-- know, for the node to send again, and repairs a part of the members.
--
-- ARGV     … 2 channel of the topic   3 where the part of the members begins; '' for none
--          4… users whom the node holds
-- returns  { where the next part begins, '' if there is none, { users that are not known } }

local call = redis.call
local members, held, channel, cursor = KEYS[3], KEYS[4], ARGV[2], ARGV[3]

-- Lifetime of the keys in seconds, which each round extends: longer than an outage, and than the error
-- of a clock. A key has none before its first round, since to set it costs a join as much as to write
-- the user.
local LIFETIME = 24 * 3600

-- Below 1: expired (renew.lua).
if tonumber(call('ZSCORE', leases, node) or 0) < 1 then return { '', {} } end

local unknown = {}
local stored = call('HMGET', members, '', unpack(ARGV, 4))
local is_known = stored[1] and call('SISMEMBER', topics, channel) == 1
for n = 4, #ARGV do
  local is_held = is_known and stored[n - 2] and call('SISMEMBER', held, ARGV[n]) == 1
  if not is_held then unknown[#unknown + 1] = ARGV[n] end
end

local occupied = string.sub(leases, 1, -6) .. 'occupied'
if stored[1] then try('ZADD', occupied, '0', string.sub(channel, #leases - 3, -2)) end

-- Without the right to extend it, the keys stay until they are empty.
for _, key in ipairs({ members, held, topics, occupied }) do try('EXPIRE', key, LIFETIME) end

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
local wrong = {}
for n = 1, #part[2], 2 do
  local user = part[2][n]
  local before, info = parse(part[2][n + 1])
  -- The version has no name.
  local nodes = user ~= '' and count_nodes(channel, user)
  if nodes and (nodes ~= before or not info) then wrong[#wrong + 1] = user end
end
if #wrong > 0 then
  local room, error = open(3, channel, wrong, 1, #wrong)
  for n, user in ipairs(wrong) do
    error = error or refusal(settle(room, user, room.stored[n + 1], 0, false))
  end
  if room and room.count == 0 then
    try('ZREM', occupied, string.sub(channel, #leases - 3, -2))
  end
  if error then return error end
end
return { part[1] == '0' and '' or part[1], unknown }
