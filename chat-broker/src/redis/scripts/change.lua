-- The common part of enter.lua, leave.lua, reap.lua and reconcile.lua.
--
-- Each node has a set of the users that it holds in a topic. `members` has the number of nodes that hold
-- each user, so one read returns all occupants, and a script knows the first and the last node.
--
-- KEYS     1 topics in which the node holds users   2 leases of all nodes
--          of each topic: members: user -> '<nodes>:<info>', '' -> version; users that the node holds
-- ARGV     1 node   2… depend on the script
--
-- To call a script costs Redis as much as to change a user, so a call changes any topics whose keys a
-- script may use together. It is not rolled back, so every command of a change is a `redis.pcall`: if
-- Redis refuses one, for a missing right or a key of the wrong type, `undo` writes back what was there,
-- and the error is the answer for this user alone. To try each command before the first write would
-- double the cost.

local try = redis.pcall
local topics, leases, node = KEYS[1], KEYS[2], ARGV[1]

-- `<prefix>:occupied` has the rooms with occupants, see rooms.lua: `r.<room>`, the part of a channel in
-- braces. Only the first join and the last leave of a room write it, after the change, and a call writes it
-- once for all its rooms. No change fails with it: reconcile.lua adds what is missing, and rooms.lua removes
-- what is left. Its name and the room are cut from `leases`, `<prefix>:nodes`, and the channel, by
-- each script: a function here would cost each call a closure.

local JOINED, LEFT, RENAMED = '\3', '\4', '\5'

-- The error that a reply is, if it is one.
local function refusal(reply)
  return type(reply) == 'table' and reply.err and reply
end

-- How many nodes hold a user according to a member, and the info; no info if it cannot be read.
local function parse(member)
  if not member then return 0 end
  local nodes, info = string.match(member, '^(%d+):(.*)$')
  -- Almost always it is one, and to convert a text is slow.
  return nodes == '1' and 1 or tonumber(nodes) or 0, info
end

-- Reads the topic whose keys are at `nth` of KEYS, and some of its users.
local function open(nth, channel, users, first, last)
  local members = KEYS[nth]
  local stored = try('HMGET', members, '', unpack(users, first, last))
  if stored.err then return nil, stored end
  -- Without a version the topic is empty, unless Redis lost the field alone.
  local is_empty = not stored[1]
  for n = 2, is_empty and #stored or 1 do is_empty = is_empty and not stored[n] end
  local fields = is_empty and 0 or try('HLEN', members)
  if refusal(fields) then return nil, fields end
  local count = stored[1] and fields - 1 or fields
  local version = tonumber(stored[1])
  if not version then
    -- Versions rise, though an empty topic leaves nothing: the first one is the time.
    local time = try('TIME')
    if time.err then return nil, time end
    stored[1], version = false, time[1] * 1000000 + time[2] - 1
  end
  return {
    channel = channel,
    members = members,
    held = KEYS[nth + 1],
    -- The fields before the change at hand: the version, then those of the users.
    stored = stored,
    -- The version, and the number of users, before the next event.
    version = version,
    count = count,
    -- The number of users was above 0 before the first change.
    was_occupied = count > 0,
  }
end

-- How many nodes hold a user, by the nodes' own sets. An expired node counts until its users are
-- removed. Returns nil without the right to read these.
local nodes_with_a_lease
local function count_nodes(channel, user)
  nodes_with_a_lease = nodes_with_a_lease or try('ZRANGEBYSCORE', leases, '-inf', '+inf')
  if nodes_with_a_lease.err then return nil end
  local count = 0
  for _, one in ipairs(nodes_with_a_lease) do
    local is_held = try('SISMEMBER', channel .. ':on:' .. one, user)
    if refusal(is_held) then return nil end
    count = count + is_held
  end
  return count
end

-- Announces that a user joined, left or has another info, as the last step of the change. `count` is
-- the number of users after it.
local function announce(room, kind, version, count, user, info)
  local head = struct.pack('>I8I4I2', version, count, #user)
  local error = refusal(try('PUBLISH', room.channel, kind .. head .. user .. info))
  if not error then room.stored[1], room.version, room.count = version, version, count end
  return error
end

-- Removes a topic from those of the node if the node holds no user in it.
local function forget_empty_topic(channel, held)
  local exists = try('EXISTS', held)
  return refusal(exists) or exists == 0 and refusal(try('SREM', topics, channel))
end

-- Makes a topic what it was before the change of a user, whom `move`, SADD or SREM, moves back. If Redis
-- refuses to write the field back as well, the version stays ahead: with the next event servers notice
-- that they missed one.
local function undo(room, user, member, move)
  local members, version = room.members, room.stored[1]
  local written = member and try('HSET', members, user, member) or try('HDEL', members, user)
  if not refusal(written) then
    if version then try('HSET', members, '', version) else try('HDEL', members, '') end
  end
  if move then try(move, room.held, user) end
  if move == 'SADD' then try('SADD', topics, room.channel) end
  forget_empty_topic(room.channel, room.held)
end
