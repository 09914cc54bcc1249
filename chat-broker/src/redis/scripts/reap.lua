-- Some of the users leave whom a dead node held in a topic.
--
-- ARGV     … 2 how many at most
-- returns  how many there were

redis.call('HLEN', members)
local users = redis.call('SPOP', held, ARGV[2])
for _, user in ipairs(users) do
  release(user, look_up(user))
end
tidy()
return #users
