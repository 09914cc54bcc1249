-- Gives a publication the next offset of its topic, keeps it, and hands it on, in one
-- atomic step. What can fail is before the first write: nothing is rolled back.
--
-- KEYS     1 meta: epoch, offset and id of the last, size of all   2 log
--          3 record of the key (optional)
-- ARGV     1 channel   2 epoch for a sequence that begins   3 id of the publication
--          4 entries kept   5 '<bytes>/<share>': of their payload, and the part of it that each may
--          have; followed by '!<excess>' if the payload is larger than that
--          6 lifetime of the log (ms)   7 least lifetime of meta (s)   8 payload
-- returns  { offset, epoch, subscribed connections, 1 if an earlier one has the key }

-- A local saves 1 % of the script's time.
local call = redis.call
local meta, log, record = KEYS[1], KEYS[2], KEYS[3]
local channel, id, kept, payload = ARGV[1], ARGV[3], ARGV[4], ARGV[8]

if record then
  local first = call('GET', record)
  -- Any other value is not a record of this program: it is replaced.
  if first and string.find(first, '^%w%w%w%w%w%w%w%w........%d+$') then
    -- The same publication, sent again after its answer was lost, is no repetition.
    local own = string.sub(first, 9, 16) == id
    return { tonumber(string.sub(first, 17)), string.sub(first, 1, 8), 0, own and 0 or 1 }
  end
end
local stored = call('HMGET', meta, 'epoch', 'offset', 'size')
local epoch, offset, size = stored[1], tonumber(stored[2] or nil), stored[3]
local is_position = epoch and string.find(epoch, '^%w%w%w%w%w%w%w%w$')
  -- The next one is 2^53 - 1 at most.
  and offset and offset >= 0 and offset < 2 ^ 53 - 1 and offset % 1 == 0

-- While no entry is larger than its share, '<bytes>/<share>' is the size, and MAXLEN alone holds
-- both bounds. Else what they are larger by is known, too: '<bytes>/<share>+<excess>'.
local new_size, max_entries, stream_id, reply
repeat
  if not is_position then
    epoch, offset, size = ARGV[2], 0, nil
    -- The log of the sequence before: its ids may be above the new ones. Deleted only if there is
    -- one: a full Redis refuses nothing of a script after its first write.
    if call('EXISTS', log) == 1 then call('DEL', log) end
  end
  new_size, max_entries = size, kept
  if size ~= ARGV[5] then
    local limits, bytes, share, own = string.match(ARGV[5], '^((%d+)/(%d+))!?(%d*)$')
    bytes, share, own = tonumber(bytes), tonumber(share), tonumber(own) or 0
    local most, count, excess = tonumber(kept), 1, own

    local function fits(count, excess)
      return count <= 1 or count <= most and count * share + excess <= bytes
    end
    local function excess_of(entry) return math.max(#entry[2][2] - share, 0) end
    local function id_next_to(entry, step)
      return string.format('%d', string.match(entry[1], '^%d+') + step)
    end

    -- The stored size is for other limits, or missing: measures the log, newest entry first.
    local function measure()
      local last, block = '+', 16
      repeat
        local entries = call('XREVRANGE', log, last, '-', 'COUNT', block)
        for _, entry in ipairs(entries) do
          local more = excess + excess_of(entry)
          if not fits(count + 1, more) then return end
          count, excess, last = count + 1, more, id_next_to(entry, -1)
        end
      until #entries < block
    end

    -- Drops the oldest entries: first as many as exceed the count, then one by one.
    local function shrink()
      local first = '-'
      while not fits(count, excess) do
        local block = math.min(math.max(count - most, 1), 64)
        local entries = call('XRANGE', log, first, '+', 'COUNT', block)
        if #entries == 0 then return end
        for _, entry in ipairs(entries) do
          count, excess, first = count - 1, excess - excess_of(entry), id_next_to(entry, 1)
        end
      end
    end

    local known, before = string.match(size or '', '^(%d+/%d+)%+?(%d*)$')
    if known == limits then
      local length = call('XLEN', log)
      count, excess = count + length, excess + (tonumber(before) or 0)
      shrink()
      -- A log that has expired leaves its size behind.
      if count == 1 then excess = own end
    else
      measure()
    end
    max_entries, new_size = count, excess > 0 and string.format('%s+%d', limits, excess) or limits
  end
  stream_id = string.format('%d', offset + 1)
  reply = redis.pcall('XADD', log, 'MAXLEN', max_entries, stream_id, 'd', payload, 'i', id)
  -- Redis takes no id below the latest of the log: meta is an older copy than the log then.
  is_position = type(reply) ~= 'table' or not string.find(reply.err, 'equal or smaller', 1, true)
until is_position
offset = offset + 1
-- Repeated with `call`: the caller gets the original error of Redis.
if type(reply) == 'table' then call('XADD', log, stream_id, 'd', payload, 'i', id) end
call('PEXPIRE', log, ARGV[6])
if size == new_size then
  call('HSET', meta, 'offset', stream_id, 'id', id)
else
  -- A sequence that begins has no size yet.
  call('HSET', meta, 'epoch', epoch, 'offset', stream_id, 'id', id, 'size', new_size)
end
-- Twice the time, so that a busy topic does not need this write for each publication.
if call('TTL', meta) < tonumber(ARGV[7]) then
  call('EXPIRE', meta, 2 * ARGV[7])
end
local message = '\2' .. struct.pack('>I8', offset) .. epoch .. id .. payload
local nodes = call('PUBLISH', channel, message)
if record then call('SET', record, epoch .. id .. stream_id, 'EX', 300) end
return { offset, epoch, nodes, 0 }
