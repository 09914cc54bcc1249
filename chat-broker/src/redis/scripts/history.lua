-- Reads a part of a topic's history, and the position of the topic. Writes nothing.
--
-- ARGV     1 'after', 'before' or 'latest'   2 the offset that is meant   3 most entries
--          4 bytes of payload to stop at
-- returns  { epoch, offset, offset of the oldest entry, { entries } }; the entries in the order of
--          reading, their offsets without a hole; an epoch of '' if nothing is stored, of '?' if it
--          makes no sense

local epoch, last, base, count = read_log()
if not epoch then return { epoch == nil and '' or '?', 0, 0, {} } end

local forward, bound = ARGV[1] == 'after', tonumber(ARGV[2])
local left, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4])
local from, to = last - count, last
if forward then from = math.max(bound, from) end
if ARGV[1] == 'before' then to = math.min(bound - 1, to) end

local found, bytes = {}, 0
-- The first block is small, and the next as large as its entries allow: few bytes are read beyond
-- the limit.
local block = 16
while from < to and left > 0 and bytes_left > 0 do
  block = math.min(block, left, to - from)
  local first = forward and from or to - block
  local entries = call('LRANGE', log, first - base + 1, first - base + block)
  for n = 1, block do
    local entry = entries[forward and n or block + 1 - n]
    found[#found + 1] = entry
    left, bytes, bytes_left = left - 1, bytes + #entry, bytes_left - #entry + 8
    if forward then from = from + 1 else to = to - 1 end
    if bytes_left <= 0 then break end
  end
  block = math.max(math.floor(bytes_left * #found / bytes), 1)
end
local oldest = forward and from - #found + 1 or to + 1
return { epoch, last, #found > 0 and oldest or 0, found }
