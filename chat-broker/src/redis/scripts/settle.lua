-- The further part of leave.lua, reap.lua and reconcile.lua, by which users leave topics.

-- Writes that a node has stopped holding a user, if `was_held` is 1, and otherwise that the number of
-- nodes may have changed. Returns the version of the event, 0 if there is none, or an error.
local function settle(room, user, member, was_held, is_last)
  local members = room.members
  local before, info = parse(member)
  -- If the set of a node was lost, only the others know whether the user is still there.
  local nodes = was_held == 1 and before == 1 and 0
    or count_nodes(room.channel, user) or before - was_held
  local count = room.count - (member and 1 or 0)
  local error, version
  if is_last and count > 0 then
    error = forget_empty_topic(room.channel, room.held)
  elseif is_last then
    -- No other user is in the topic, so the node holds none.
    error = refusal(try('SREM', topics, room.channel))
  end
  if nodes <= 0 and (member or was_held == 1) or member and not info then
    -- A user whose field was lost is announced as well, since servers list the user nevertheless. What
    -- cannot be read is removed: nodes that hold the user send it again.
    version = room.version + 1
    if count > 0 then
      -- First HSET: `undo` needs it if HDEL is refused.
      error = error or refusal(try('HSET', members, '', string.format('%d', version)))
        or refusal(try('HDEL', members, user))
    else
      -- Redis deletes a hash with its last field.
      error = error or refusal(try('HDEL', members, user, ''))
    end
    error = error or announce(room, LEFT, version, count, user, info or '')
  elseif info and nodes ~= before then
    error = error or refusal(try('HSET', members, user, nodes .. ':' .. info))
  end
  if error then undo(room, user, member, was_held == 1 and 'SADD') end
  return error or version or 0
end
