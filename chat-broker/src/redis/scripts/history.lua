-- Reads a part of a topic's history, and the position of the topic. Writes nothing.
--
-- KEYS     1 meta   2 log
-- ARGV     1 XRANGE or XREVRANGE   2 where to begin   3 most entries   4 payload to stop at
-- returns  { epoch, offset, id of the newest entry, offset of the oldest, { payloads } };
--          the payloads in the order of reading, their offsets without a hole; epoch and offset as
--          they are stored, and no entries if they are no position

local meta, log = KEYS[1], KEYS[2]
local command, from, left, bytes_left = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local forward = command == 'XRANGE'
local step = forward and 1 or -1

local stored = redis.call('HMGET', meta, 'epoch', 'offset')
local here = tonumber(string.match(stored[2] or '', '^%d+$'))
if not (stored[1] and here and here <= 2 ^ 53) then return { stored[1], stored[2], '', 0, {} } end
local payloads, oldest, newest_id, expected = {}, 0, '', nil

-- What lies beyond the counter, which is an older copy then, is of a sequence that has ended: the
-- next publication begins another.
local last = string.format('%d', here)
local to = forward and last or '-'
if not forward and (from == '+' or tonumber(from) > here) then from = last end

-- Takes an entry; says whether to go on.
local function take(entry)
  local offset = tonumber(string.match(entry[1], '^%d+'))
  if expected and offset ~= expected then return false end
  expected = offset + step
  local payload, id = entry[2][2], entry[2][4] or ''
  if forward or newest_id == '' then newest_id = id end
  if not forward or oldest == 0 then oldest = offset end
  payloads[#payloads + 1] = payload
  left, bytes_left = left - 1, bytes_left - #payload
  from = string.format('%d', expected)
  return left > 0 and bytes_left > 0
end

-- Read in blocks of 16, so that few entries are read beyond the limit.
local more = left > 0
while more do
  local block = math.min(left, 16)
  local entries = redis.call(command, log, from, to, 'COUNT', block)
  more = #entries == block
  for _, entry in ipairs(entries) do
    if not take(entry) then
      more = false
      break
    end
  end
end
return { stored[1], stored[2], newest_id, oldest, payloads }
