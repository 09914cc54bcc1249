-- A node stops holding users in topics.
--
-- ARGV     … the channels of the topics; then of each topic: the number of users, the users
-- returns  for each user the version of the event, 0 if there is none, or an error

local ROOMS = #KEYS / 2 - 1

-- Rooms that have become empty, for the list of occupied rooms: mostly one, which needs no table.
local emptied, more
local answers, at = {}, ROOMS + 2
for n = 1, ROOMS do
  local first, last = at + 1, at + ARGV[at]
  local room, error = open(2 * n + 1, ARGV[n + 1], ARGV, first, last)
  for one = first, last do
    local user, answer = ARGV[one], error
    if room then
      local was_held = try('SREM', room.held, user)
      answer = refusal(was_held)
        or settle(room, user, room.stored[one - at + 1], was_held, one == last)
    end
    answers[#answers + 1] = answer
  end
  if room and room.count == 0 then
    local name = string.sub(ARGV[n + 1], #leases - 3, -2)
    if more then more[#more + 1] = name elseif emptied then more = { name } else emptied = name end
  end
  at = last + 1
end
if emptied then
  local key = string.sub(leases, 1, -6) .. 'occupied'
  try('ZREM', key, emptied)
  if more then try('ZREM', key, unpack(more)) end
end
return answers
