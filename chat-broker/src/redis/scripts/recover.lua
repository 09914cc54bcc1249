-- Finds publications in a part of a topic's log by their ids. Writes nothing.
--
-- ARGV     1 where the part ends: an offset, or '+' for the last   2 entries in it at most   3… ids
-- returns  { epoch, { offset of each id, or 0 }, where the next part ends; 0: all is done,
--            the offset up to which the log keeps nothing, when all is done }

local wanted, offsets, missing = {}, {}, #ARGV - 2
for n = 3, #ARGV do
  wanted[ARGV[n]], offsets[n - 2] = n - 2, 0
end
local epoch, last, base = read_log()
if not epoch then return { '', offsets, 0, 0 } end

local before = ARGV[1] == '+' and last or math.min(tonumber(ARGV[1]), last)
local left = tonumber(ARGV[2])
while missing > 0 and left > 0 and before > base do
  local from = math.max(before - math.min(left, 64), base)
  local entries = call('LRANGE', log, from - base + 1, before - base)
  for at, entry in ipairs(entries) do
    local n = wanted[string.sub(entry, 1, 8)]
    if n and offsets[n] == 0 then offsets[n], missing = from + at, missing - 1 end
  end
  left, before = left - (before - from), from
end
local is_done = missing == 0 or before <= base
return { epoch, offsets, is_done and 0 or before, base }
