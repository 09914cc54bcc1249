-- What enter.lua, leave.lua, reap.lua and reconcile.lua begin with.
--
-- Who is in a topic is what the nodes say: each has a set of the users that it holds there.
-- `members` says for all of them how many nodes hold a user, so that one read tells who is there,
-- and the first and the last node are known.
--
-- KEYS     1 members of the topic: user -> '<nodes>:<info>', '' -> version
--          2 users that the node holds in it   3 topics in which the node holds somebody
--          4 leases of all nodes
-- ARGV     1 channel of the topic   2 node

local call = redis.call
local members, held, topics, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel, node = ARGV[1], ARGV[2]

-- Keys that no node has looked after for so long belong to no node, in seconds. Longer than an
-- outage, and than a clock is set wrong by.
local LIFETIME = 24 * 3600

-- No user has this name.
local NOBODY = '\0'

-- Runs each command that a change needs, also those that only read, in a form that changes nothing.
-- So what Redis refuses, for want of a right or because a key is of another kind, it refuses before
-- anything is written; HSET and SADD have no such form, and each script writes them first. And a
-- full Redis refuses a script nothing after its first write, and a removal it never refuses.
-- Writes stand first: they are what Redis refuses most.
local function prove()
  call('HDEL', members, NOBODY)
  call('SREM', held, NOBODY)
  call('SREM', topics, NOBODY)
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

local function look_up(user)
  return parse(call('HGET', members, user))
end

-- How many nodes hold a user, by what they say themselves. A node that died counts until its
-- users have left. No number without the right to ask.
local nodes_with_a_lease
local function count_nodes(user)
  -- It runs after a first write, so for want of a right it must not fail.
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

-- Announces that a user came (3), left (4) or has another info (5), after the write.
local function announce(kind, version, user, info)
  local count = call('HLEN', members) - 1
  -- The last field takes the key along.
  if count == 0 then call('HDEL', members, '') end
  local head = struct.pack('>I8I4I2', version, count, #user)
  call('PUBLISH', channel, string.char(kind) .. head .. user .. info)
end

-- A user is held by so many nodes now. Returns the version of the event; 0 if there is none.
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

-- Forgets the topic when the node holds nobody in it any more.
local function tidy()
  if call('EXISTS', held) == 0 then call('SREM', topics, channel) end
end

-- Keeps the keys for another lifetime. Without the right to they live as long as they are used.
local function look_after()
  redis.pcall('EXPIRE', members, LIFETIME)
  redis.pcall('EXPIRE', held, LIFETIME)
  redis.pcall('EXPIRE', topics, LIFETIME)
end
