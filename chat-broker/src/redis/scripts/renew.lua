-- Renews the lease of a node, and condemns nodes whose leases have run out: a lease of 0 is
-- never renewed.
--
-- KEYS     1 leases of all nodes: when they end (ms)
-- ARGV     1 node   2 lease (ms)   3 '1': a new node   4 '1': condemn
-- returns  { 0 if the node has no lease to renew, { condemned nodes } }

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease, condemned = tonumber(ARGV[2]), {}
local known = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if known == 0 and ARGV[3] ~= '1' then return { 0, condemned } end
-- For want of memory Redis refuses a script no more after a first write, and this is one
-- that it never refuses for that.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
-- Only a node that renewed of late may judge: after a pause of Redis everybody is late.
if ARGV[4] == '1' and known - now > lease / 2 then
  condemned = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 16)
  for _, node in ipairs(condemned) do
    redis.call('ZADD', KEYS[1], 0, node)
  end
end
return { 1, condemned }
