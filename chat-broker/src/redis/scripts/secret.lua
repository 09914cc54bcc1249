-- Reads the secret of all servers, or stores the one that is proposed.
--
-- KEYS     1 secret
-- ARGV     1 proposal
-- returns  { the secret, 1 if it was stored just now }

local known = redis.call('GET', KEYS[1])
if known then return { known, 0 } end
-- A full Redis refuses a script nothing after its first write, and a removal it never refuses.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
return { ARGV[1], 1 }
