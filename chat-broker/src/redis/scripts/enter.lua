-- A node starts to hold users in topics.
--
-- ARGV     … the channels of the topics; then of each topic: the number of users, the users, their infos,
--          and of each user '1': this is the latest info; '0': one that the node has set before,
--          `members` may have a later one; 'max <n>': the latest info, of a user who enters only if
--          there are fewer than n others, or if any node holds the user
-- returns  1 for each user, 2 if the room is full, or an error; 0 if the node has no lease: it has
--          expired, and must send all its users under a new name

local ROOMS = #KEYS / 2 - 1

local lease = redis.call('ZSCORE', leases, node)
-- Below 1: expired (renew.lua).
if tonumber(lease or 0) < 1 then return 0 end
-- What Redis refuses here, it refuses of all users. A full Redis refuses nothing of a script after its
-- first write, and never a removal.
redis.call('SREM', topics, '')
redis.call('SADD', topics, unpack(ARGV, 2, ROOMS + 1))

-- Returns 2 if the room is full for a user, or an error. It is not for one whom this node holds, though
-- Redis may have lost the field.
local function check_limit(room, user, member, mode)
  if member then return nil end
  if room.count == 0 and not room.stored[1] then
    -- Redis may have lost the version alone: `open` has not counted the users.
    local users = try('HLEN', room.members)
    if refusal(users) then return users end
    room.count = users
  end
  if room.count < tonumber(string.sub(mode, 5)) then return nil end
  room.is_full = true
  local is_held = try('SISMEMBER', room.held, user)
  return refusal(is_held) or is_held == 0 and 2
end

local function enter(room, user, member, info, mode)
  local is_latest = mode == '1'
  if not is_latest and mode ~= '0' then
    local full = check_limit(room, user, member, mode)
    if full then return full end
    is_latest = true
  end
  local before, known = parse(member)
  local latest = known and not is_latest and known or info
  local is_new = try('SADD', room.held, user)
  if refusal(is_new) then return is_new end
  -- A user whom Redis lost is sent again, with an info that is not the latest: the number in `members`
  -- may lack other nodes then, and may include this one. For any other the number is right, or
  -- leave.lua and reconcile.lua count.
  local nodes = not is_latest and count_nodes(room.channel, user) or math.max(before + is_new, 1)
  local kind = not (known and room.stored[1]) and JOINED or latest ~= known and RENAMED
  local field = (nodes == 1 and '1:' or nodes .. ':') .. latest
  local error
  if kind then
    local version, count = room.version + 1, room.count + (member and 0 or 1)
    error = refusal(try('HSET', room.members, '', string.format('%d', version), user, field))
      or announce(room, kind, version, count, user, latest)
  elseif nodes ~= before then
    error = refusal(try('HSET', room.members, user, field))
  end
  if error then undo(room, user, member, is_new == 1 and 'SREM') end
  return error or 1
end

-- Rooms that were empty, for the list of occupied rooms: mostly one, which needs no table. The further ones
-- are each after its score: as a text, since to convert a number is slow.
local occupied, more
local answers, at = {}, ROOMS + 2
for n = 1, ROOMS do
  local users = tonumber(ARGV[at])
  local room, error = open(2 * n + 1, ARGV[n + 1], ARGV, at + 1, at + users)
  for one = at + 1, at + users do
    answers[#answers + 1] = error or
      enter(room, ARGV[one], room.stored[one - at + 1], ARGV[one + users], ARGV[one + 2 * users])
  end
  if room and room.count > 0 and not room.was_occupied then
    local name = string.sub(ARGV[n + 1], #leases - 3, -2)
    if more then
      more[#more + 1] = '0'
      more[#more + 1] = name
    elseif occupied then
      more = { '0', name }
    else
      occupied = name
    end
  end
  if error or room.is_full then forget_empty_topic(ARGV[n + 1], KEYS[2 * n + 2]) end
  at = at + 1 + 3 * users
end
if occupied then
  local key = string.sub(leases, 1, -6) .. 'occupied'
  try('ZADD', key, '0', occupied)
  if more then try('ZADD', key, unpack(more)) end
end
return answers
