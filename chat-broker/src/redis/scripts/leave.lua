-- A node says that a user is in a topic no more.
--
-- ARGV     … 2 user

local nodes, info = look_up(ARGV[2])
if redis.call('SREM', held, ARGV[2]) == 1 then
  release(ARGV[2], nodes, info)
  tidy()
end
return 1
