-- The common part of enter.lua, leave.lua, reap.lua and reconcile.lua.
--
-- Each node has a set of the users that it holds in a topic. `members` has the number of nodes that hold
-- each user, so one read returns all occupants, and a script knows the first and the last node.
--
-- KEYS     1 members of the topic: user -> '<nodes>:<info>', '' -> version
--          2 users that the node holds in it   3 topics in which the node holds users
--          4 leases of all nodes
-- ARGV     1 channel of the topic   2 node

local call = redis.call
local members, held, topics, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel, node = ARGV[1], ARGV[2]

-- Lifetime of the keys in seconds, which nodes extend. Longer than an outage, and than the error of a
-- clock.
local LIFETIME = 24 * 3600

-- No user has this name.
local NO_USER = '\0'

-- Runs each command that a change needs, including those that only read, in a form that changes nothing.
-- If Redis refuses one, for a missing right or a key of the wrong type, it does so before anything is
-- written: a script is not rolled back. HSET and SADD have no such form, so each script runs them first.
-- A full Redis refuses nothing of a script after its first write, and never a removal. Writes are first,
-- since Redis refuses them most often.
local function check_rights()
  call('HDEL', members, NO_USER)
  call('SREM', held, NO_USER)
  call('SREM', topics, NO_USER)
  call('PUBLISH', channel .. ':', '')
  call('HLEN', members)
  call('EXISTS', held)
  call('TIME')
end

-- How many nodes hold a user according to a member, and the info; no info if it cannot be read.
local function parse(member)
  local nodes, info = string.match(member or '', '^(%d+):(.*)$')
  return tonumber(nodes) or 0, info
end

local function read_member(user)
  return parse(call('HGET', members, user))
end

-- How many nodes hold a user, by the nodes' own sets. An expired node counts until its users are
-- removed. Returns nil without the right to read these.
local nodes_with_a_lease
local function count_nodes(user)
  -- It runs after the first write, so a missing right must not make it fail.
  nodes_with_a_lease = nodes_with_a_lease or redis.pcall('ZRANGEBYSCORE', leases, '-inf', '+inf')
  if nodes_with_a_lease.err then return nil end
  local count = 0
  for _, one in ipairs(nodes_with_a_lease) do
    local is_held = redis.pcall('SISMEMBER', channel .. ':on:' .. one, user)
    if type(is_held) == 'table' then return nil end
    count = count + is_held
  end
  return count
end

-- Takes the next version. The first of a topic is the time, so that versions rise though an
-- empty topic leaves nothing.
local function next_version()
  local version = tonumber(call('HGET', members, ''))
  if version then
    version = version + 1
  else
    local time = call('TIME')
    version = time[1] * 1000000 + time[2]
  end
  call('HSET', members, '', string.format('%d', version))
  return version
end

-- Announces that a user joined (3), left (4) or has another info (5), after the write.
local function announce(kind, version, user, info)
  local count = call('HLEN', members) - 1
  -- Redis deletes a hash with its last field.
  if count == 0 then call('HDEL', members, '') end
  local head = struct.pack('>I8I4I2', version, count, #user)
  call('PUBLISH', channel, string.char(kind) .. head .. user .. info)
end

-- Sets the number of nodes that hold a user. Returns the version of the event; 0 if there is none.
local function set_nodes(user, info, before, now)
  if now == 0 then
    local version = next_version()
    call('HDEL', members, user)
    announce(4, version, user, info)
    return version
  end
  if now ~= before then call('HSET', members, user, now .. ':' .. info) end
  return 0
end

-- Removes the topic from those of the node if the node holds no user in it.
local function forget_empty_topic()
  if call('EXISTS', held) == 0 then call('SREM', topics, channel) end
end

-- Extends the lifetime of the keys. Without the right to do so, they stay until they are empty.
local function extend_lifetime()
  redis.pcall('EXPIRE', members, LIFETIME)
  redis.pcall('EXPIRE', held, LIFETIME)
  redis.pcall('EXPIRE', topics, LIFETIME)
end
