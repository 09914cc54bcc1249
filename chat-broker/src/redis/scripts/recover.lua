-- Finds publications in a part of a topic's log by their ids. Writes nothing.
--
-- KEYS     1 meta   2 log
-- ARGV     1 where the part ends: '+' or an offset   2 entries in it at most   3… ids
-- returns  { epoch, { offset of each id, or 0 }, where the next part ends; 0: all is done,
--            the offset up to which the log keeps nothing, when all is done }

local stored = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
local epoch, before, left = stored[1], ARGV[1], tonumber(ARGV[2])
local wanted, offsets, missing, floor = {}, {}, #ARGV - 2, 0
for n = 3, #ARGV do
  wanted[ARGV[n]], offsets[n - 2] = n - 2, 0
end
while epoch and missing > 0 and left > 0 do
  local entries = redis.call('XREVRANGE', KEYS[2], before, '-', 'COUNT', 64)
  for _, entry in ipairs(entries) do
    local offset, n = tonumber(string.match(entry[1], '^%d+')), wanted[entry[2][4]]
    if n then offsets[n], missing = offset, missing - 1 end
    before = string.format('%d', offset - 1)
  end
  left = left - 64
  if #entries < 64 then missing, floor = 0, tonumber(before) or tonumber(stored[2] or nil) or 0 end
end
return { epoch or '', offsets, epoch and missing > 0 and tonumber(before) or 0, floor }
