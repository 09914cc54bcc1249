-- Gives publications the next offsets of their topics, stores and publishes them: one atomic step for
-- each topic. A publication whose keys are of the wrong type fails alone. If a right is missing that
-- only a later command needs, all publications of the call fail, though some were published.
--
-- The log of a topic is a list with the name of its channel. Its first element is the head, each
-- further one an entry: the entry with offset o is element o - base.
--   head      epoch, 8 letters or digits; base, 8 bytes; bounds: entries, 4 bytes, bytes of their
--             payload, 8, and lifetime of the log (ms), 8; excess, 8: by how many bytes entries are
--             larger than their share
--   entry     id of the publication, 8 bytes; payload
-- More keys:
--   position  of a topic whose log expires first: epoch; offset, 8 bytes; id of the last publication
--   record    of an idempotency key: epoch; offset, 8 bytes; id
--
-- KEYS     of each topic: log; position if a flag says so; records of its publications with a key
-- ARGV     1 settings: epoch for a sequence that begins, 8 bytes; bounds, 20; no excess, 8; share, 8;
--            elements at which a log is trimmed, 4; lifetime of a position (ms), 8
--          2 of each topic its flags and the number of its publications, a byte each; if a flag says
--            so, also a byte for each of these, 1 if it has a key
--          3… entries
-- returns  of each topic the result of each of its publications: kind, offset, epoch, 17 bytes; then
--          how many connections received them, 4. Kinds: 2 published, 1 published before under the
--          same key, 0 failed. If some failed, an array of this and of their errors

-- Flags. An entry is large if it is larger than its share.
local EXTENDS, OUTLIVES, HAS_KEYS, IS_LARGE = 1, 2, 4, 8
-- Offsets are exact up to 2^53 - 1, and a call has far fewer publications than this leaves.
local MAX_BASE = 2 ^ 53 - 2 ^ 32

local call, pcall, pack, unpack = redis.call, redis.pcall, struct.pack, struct.unpack
local settings, control = ARGV[1], ARGV[2]
local unchanged, _, most = unpack('>c28I8I4', settings, 9)

-- Most calls of a server that is not busy have one publication, without a flag and a key, of a log that is
-- as the call before left it. What follows would do the same, and costs a tenth more of the call: the
-- functions, loops and tables that it needs for everything else.
if control == '\0\1' then
  local log, entry = KEYS[1], ARGV[3]
  -- Numbers are strings here: Redis formats others with all their digits.
  local head = pcall('LINDEX', log, '0')
  -- An error is a table, and has no length.
  if head and #head == 44 then
    local epoch, base, rest = unpack('>c8I8c28', head)
    if rest == unchanged and base <= MAX_BASE then
      local length = pcall('RPUSH', log, entry)
      if type(length) == 'number' then
        if length > most then
          local kept = unpack('>I4', settings, 9)
          call('LTRIM', log, -kept, '-1')
          call('LPUSH', log, pack('>c8I8', epoch, base + length - 1 - kept) .. unchanged)
        end
        local place = pack('>BI8c8', 2, base + length - 1, epoch)
        return place .. pack('>I4', call('PUBLISH', log, place .. entry))
      end
    end
  end
end

-- What is needed rarely. It uses no local variables of the script: each would make all calls slower.
local function rare()
  -- By how many bytes some entries are larger than their share.
  local function excess_of(entries)
    local share, excess = struct.unpack('>I8', ARGV[1], 37), 0
    for _, entry in ipairs(entries) do
      excess = excess + math.max(#entry - 8 - share, 0)
    end
    return excess
  end

  -- Opens a log that begins, that has other bounds, or whose entries are not all within their share.
  -- Returns its epoch, base and excess; or nil and the error.
  local function open(log, position, head)
    local epoch, base, bounds, excess
    if type(head) == 'table' then return nil, head end
    if head and #head == 44 and string.find(head, '^%w%w%w%w%w%w%w%w') then
      epoch, base, bounds, excess = struct.unpack('>c8I8c20I8', head)
    end
    if epoch and base <= 2 ^ 53 - 2 ^ 32 then
      if bounds == string.sub(ARGV[1], 9, 28) then return epoch, base, excess end
      return epoch, base, excess_of(redis.call('LRANGE', log, 1, -1))
    end

    epoch, base = string.sub(ARGV[1], 1, 8), 0
    if head then
      -- No head of ours, or the offsets are used up. Deleted only then: a full Redis refuses nothing
      -- of a script after its first write.
      redis.call('DEL', log)
    elseif position then
      -- The log has expired.
      local stored = redis.pcall('GET', position)
      if type(stored) == 'string' and string.find(stored, '^%w%w%w%w%w%w%w%w') and #stored == 24 then
        local before, offset = struct.unpack('>c8I8', stored)
        if offset <= 2 ^ 53 - 2 ^ 32 then epoch, base = before, offset end
      end
    end
    head = epoch .. struct.pack('>I8', base) .. string.sub(ARGV[1], 9, 36)
    local reply = redis.pcall('RPUSH', log, head)
    if type(reply) == 'table' then return nil, reply end
    return epoch, base, 0
  end

  -- Drops the oldest entries until the others are within the bounds, and writes the head.
  local function shrink(log, epoch, base, excess, count)
    local kept, bytes, _, _, share = struct.unpack('>I4I8I8I8I8', ARGV[1], 9)
    local dropped = 0
    while count > 1 and (count > kept or count * share + excess > bytes) do
      local block = math.max(math.min(count - kept, 64), 1)
      excess = excess - excess_of(redis.call('LRANGE', log, dropped + 1, dropped + block))
      count, dropped = count - block, dropped + block
    end
    if count == 1 then
      -- Measured, so that a wrong excess in the head is corrected.
      excess = excess_of(redis.call('LRANGE', log, -1, -1))
    end
    redis.call('LTRIM', log, dropped + 1, -1)
    local bounds = string.sub(ARGV[1], 9, 28)
    redis.call('LPUSH', log, struct.pack('>c8I8c20I8', epoch, base + dropped, bounds, excess))
  end

  -- The result of a publication whose key has a record; nil if the record is not one of this
  -- program; nil and the error if it is no string.
  local function recorded(record, entry)
    local first = redis.pcall('GET', record)
    if type(first) == 'table' then return nil, first end
    if not first or #first ~= 24 or not string.find(first, '^%w%w%w%w%w%w%w%w') then return nil end
    local epoch, offset, id = struct.unpack('>c8I8c8', first)
    -- The same publication, sent again after its answer was lost, is no repetition.
    return struct.pack('>BI8c8', id == string.sub(entry, 1, 8) and 2 or 1, offset, epoch)
  end

  -- Extends the lifetime of the log, and writes the position if that outlives it.
  local function extend(log, position, flags, value)
    local log_ttl, position_ttl = struct.unpack('>I8', ARGV[1], 21), struct.unpack('>I8', ARGV[1], 49)
    redis.call('PEXPIRE', log, string.format('%d', log_ttl))
    if flags % 4 >= 2 then
      redis.call('SET', position, value, 'PX', string.format('%d', position_ttl))
    elseif position then
      -- Of a time when the log was to expire first: the sequence would go back to it.
      redis.call('DEL', position)
    end
  end

  return { excess_of = excess_of, open = open, shrink = shrink, recorded = recorded, extend = extend }
end

local byte, find = string.byte, string.find
local results, errors, rarely
local next_key, next_byte, next_entry = 1, 1, 3
while next_byte < #control do
  local flags, count = byte(control, next_byte, next_byte + 1)
  local log, position = KEYS[next_key], nil
  next_key, next_byte = next_key + 1, next_byte + 2
  if flags % HAS_KEYS > 0 then position, next_key = KEYS[next_key], next_key + 1 end

  local head = pcall('LINDEX', log, '0')
  local epoch, base, excess
  -- Mostly the log is as the call before left it.
  if flags < IS_LARGE and head and #head == 44 and find(head, unchanged, 17, true) then
    epoch, base = unpack('>c8I8', head)
  end
  if not epoch or base > MAX_BASE then
    rarely = rarely or rare()
    epoch, base, excess = rarely.open(log, position, head)
  end

  -- The message to the subscribers, of one publication; `parts` of several.
  local message, parts
  local places, length, last_entry = nil, 1, nil
  local refused, has_keys = not epoch and base, flags % IS_LARGE >= HAS_KEYS
  for _ = 1, count do
    local entry, record, is_new = ARGV[next_entry], nil, true
    local place, failure
    next_entry = next_entry + 1
    if has_keys then
      if byte(control, next_byte) == 1 then record, next_key = KEYS[next_key], next_key + 1 end
      next_byte = next_byte + 1
    end
    local reply = refused or pcall('RPUSH', log, entry)
    if type(reply) == 'table' then
      if record then
        -- A full Redis knows the key of an earlier publication, too.
        rarely = rarely or rare()
        place = rarely.recorded(record, entry)
      end
      failure = not place and reply
    else
      place = pack('>BI8c8', 2, base + reply - 1, epoch)
      if record then
        -- Mostly a key is new: taking an entry back costs less than looking up each key before.
        local value = pack('>c8I8c8', epoch, base + reply - 1, entry)
        local set = pcall('SET', record, value, 'NX', 'EX', '300')
        if not set then
          rarely = rarely or rare()
          local earlier, damage = rarely.recorded(record, entry)
          if earlier or damage then
            place, failure, is_new = earlier, damage, false
          else
            call('SET', record, value, 'EX', '300')
          end
        elseif set.err then
          failure, is_new = set, false
        end
      end
      if not is_new then
        call('RPOP', log)
      else
        length, last_entry = reply, entry
        if excess then excess = excess + rarely.excess_of({ entry }) end
        if not message then
          message = place .. entry
        else
          parts = parts or { '\6' .. string.sub(message, 2, 17), pack('>I4', #message - 17), string.sub(message, 18) }
          parts[#parts + 1] = pack('>I4', #entry) .. entry
        end
      end
    end
    if failure then
      errors = errors or { '' }
      errors[#errors + 1], place = failure, string.rep('\0', 17)
    end
    places = places and places .. place or place
  end

  local nodes = 0
  if message then
    if excess then
      rarely.shrink(log, epoch, base, excess, length - 1)
    elseif length > most then
      local kept = unpack('>I4', settings, 9)
      call('LTRIM', log, -kept, '-1')
      call('LPUSH', log, pack('>c8I8', epoch, base + length - 1 - kept) .. unchanged)
    end
    if flags % HAS_KEYS > 0 or excess then
      rarely = rarely or rare()
      rarely.extend(log, position, flags, pack('>c8I8c8', epoch, base + length - 1, last_entry))
    end
    nodes = call('PUBLISH', log, parts and table.concat(parts) or message)
  elseif excess and call('LLEN', log) == 1 then
    -- Nothing was added to a log that begins.
    call('DEL', log)
  end
  -- A table costs as much as an array in the reply: neither is made for one topic that succeeds.
  local result = places .. pack('>I4', nodes)
  if results or next_byte < #control then
    results = results or {}
    results[#results + 1] = result
  else
    results = result
  end
end
if type(results) == 'table' then results = table.concat(results) end
if not errors then return results end
errors[1] = results
return errors
