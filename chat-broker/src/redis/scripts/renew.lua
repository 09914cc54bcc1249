-- Renews the lease of a node, and marks nodes as expired whose leases have ended, by a lease below 1,
-- which is never renewed: 0, or 0.5 of a node that has closed, or has another name since. The last lease
-- of such a name has half a millisecond, so that the log does not report its end as a failure.
--
-- KEYS     1 leases of all nodes: when they end (ms)   2 topics of the previous node
-- ARGV     1 node   2 lease (ms)   3 '1': a new node   4 '1': expire others   5 longest lease (ms)
--          6 previous name of this node; '' if none   7 '1': the node closes
-- returns  { 0 if the node has no lease to renew, { expired nodes }, 1 if it was late,
--          { expired nodes that had closed } }

local leases, node, lease, previous = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expired, closed = {}, {}
local known = tonumber(redis.call('ZSCORE', leases, node) or 0)
if known < 1 and ARGV[3] ~= '1' then return { 0, expired, 0, closed } end
-- A full Redis refuses nothing of a script after its first write, and this is one
-- that it never refuses for that: a removal of nothing.
redis.call('ZREM', leases, '')
redis.call('ZADD', leases, now + lease + (ARGV[7] == '1' and 0.5 or 0), node)
if previous ~= '' then
  local ends = tonumber(redis.call('ZSCORE', leases, previous) or -1)
  if ends >= 0 then
    redis.call('ZADD', leases, math.floor(ends) + 0.5, previous)
  elseif redis.call('EXISTS', KEYS[2]) == 1 then
    -- If the lease was lost as well, no node would find the users under the name.
    redis.call('ZADD', leases, now + lease + 0.5, previous)
  end
end
-- A clock that was set back makes the lease of a dead node last. A node that is alive renews.
local longest = now + tonumber(ARGV[5])
local far = redis.call('ZRANGEBYSCORE', leases, '(' .. longest, '+inf', 'WITHSCORES', 'LIMIT', 0, 64)
for n = 1, #far, 2 do
  redis.call('ZADD', leases, longest + tonumber(far[n + 1]) % 1, far[n])
end
-- After a pause of Redis, or when its clock was set forward, all nodes are late.
if known >= 1 and known - now <= lease / 2 then return { 1, expired, 1, closed } end
if ARGV[4] == '1' and known >= 1 then
  local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 16)
  for n = 1, #ended, 2 do
    local half = tonumber(ended[n + 1]) % 1
    redis.call('ZADD', leases, half, ended[n])
    table.insert(half > 0 and closed or expired, ended[n])
  end
end
return { 1, expired, 0, closed }
