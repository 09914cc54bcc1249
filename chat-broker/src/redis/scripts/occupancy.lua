-- Who is in a topic. Writes nothing.
--
-- KEYS     1 members
-- ARGV     1 most members that are listed
-- returns  { version, count, { user, '<nodes>:<info>', … } }; the version is among them, too

local version = redis.call('HGET', KEYS[1], '')
if not version then return { 0, 0, {} } end
local count = redis.call('HLEN', KEYS[1]) - 1
if count > tonumber(ARGV[1]) then return { tonumber(version), count, {} } end
return { tonumber(version), count, redis.call('HGETALL', KEYS[1]) }
