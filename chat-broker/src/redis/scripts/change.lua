-- What enter.lua, leave.lua and reap.lua begin with.
--
-- KEYS     1 members of the topic: user -> '<nodes>:<info>', '' -> version
--          2 users that the node holds in it   3 topics in which the node holds somebody
-- ARGV     1 channel of the topic

local members, held, topics, channel = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

-- Announces a coming (3) or going (4), after the write, under the next version. The first
-- of a topic is the time, so that versions rise though an empty topic leaves nothing.
local function announce(kind, user, info)
  local version = redis.call('HGET', members, '')
  if version then
    version = tonumber(version) + 1
  else
    local time = redis.call('TIME')
    version = time[1] * 1000000 + time[2]
  end
  redis.call('HSET', members, '', string.format('%d', version))
  local count = redis.call('HLEN', members) - 1
  if count == 0 then redis.call('DEL', members) end
  local head = struct.pack('>I8I4I2', version, count, #user)
  redis.call('PUBLISH', channel, string.char(kind) .. head .. user .. info)
end

-- How many nodes hold a user, and the info.
local function look_up(user)
  local member = redis.call('HGET', members, user)
  if not member then return 0, '' end
  local colon = string.find(member, ':', 1, true)
  return tonumber(string.sub(member, 1, colon - 1)), string.sub(member, colon + 1)
end

-- One node less holds a user.
local function release(user, nodes, info)
  if nodes > 1 then
    redis.call('HSET', members, user, nodes - 1 .. ':' .. info)
  elseif redis.call('HDEL', members, user) == 1 then
    announce(4, user, info)
  end
end

-- Forgets the topic when the node holds nobody in it any more.
local function tidy()
  if redis.call('EXISTS', held) == 0 then redis.call('SREM', topics, channel) end
end
