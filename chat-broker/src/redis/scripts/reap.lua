-- Removes some of the users that an expired node held in a topic.
--
-- ARGV     … 2 channel of the topic   3 how many at most
-- returns  how many there were

local channel, held = ARGV[2], KEYS[4]
local users = redis.call('SRANDMEMBER', held, ARGV[3])
local room, error = open(3, channel, users, 1, #users)
if #users == 0 then error = error or forget_empty_topic(channel, held) end
for n, user in ipairs(users) do
  local was_held = not error and try('SREM', held, user)
  error = error or refusal(was_held)
    or refusal(settle(room, user, room.stored[n + 1], was_held, n == #users))
end
if room and room.count == 0 then
  try('ZREM', string.sub(leases, 1, -6) .. 'occupied', string.sub(channel, #leases - 3, -2))
end
return error or #users
