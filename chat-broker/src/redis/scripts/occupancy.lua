-- Who is in a topic. Writes nothing.
--
-- KEYS     1 members   2 leases of all nodes
-- ARGV     1 most members that are listed   2 channel   3 '1': a member whom no node holds is left
--          out, which only a node may say that has had its lease for a while
-- returns  { version, count, { user, '<nodes>:<info>', … } }; the version is among them, too

local members, leases, channel = KEYS[1], KEYS[2], ARGV[2]
local version = redis.call('HGET', members, '')
if not version then return { 0, 0, {} } end
local count = redis.call('HLEN', members) - 1
if count > tonumber(ARGV[1]) then return { tonumber(version), count, {} } end
local all = redis.call('HGETALL', members)
if ARGV[3] ~= '1' then return { tonumber(version), count, all } end

-- Users of a node that died as what Redis knew of it was lost: reconcile.lua removes them later.
local nodes = redis.call('ZRANGEBYSCORE', leases, '-inf', '+inf')
local function is_held(user)
  for _, node in ipairs(nodes) do
    -- Without the right to ask the members are believed.
    if redis.pcall('SISMEMBER', channel .. ':on:' .. node, user) ~= 0 then return true end
  end
  return false
end

local listed = {}
for n = 1, #all, 2 do
  if all[n] ~= '' then
    if is_held(all[n]) then
      listed[#listed + 1], listed[#listed + 2] = all[n], all[n + 1]
    else
      count = count - 1
    end
  end
end
if count == 0 then return { 0, 0, {} } end
return { tonumber(version), count, listed }
