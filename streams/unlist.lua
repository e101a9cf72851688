-- unlist: blank what stands in a part of the index, so that no byte of it is left.
--
-- KEYS  1 part of the index
-- ARGV  1… where it stands, from 0, and what stands there
-- Returns how many were blanked.
--
-- A script, because a part that has gone meanwhile must not come back by it.
local count = 0
for i = 1, #ARGV, 2 do
  local at, text = tonumber(ARGV[i]), ARGV[i + 1]
  if redis.call('GETRANGE', KEYS[1], at, at + #text - 1) == text then
    redis.call('SETRANGE', KEYS[1], at, ' ' .. string.rep('-', #text - 1))
    count = count + 1
  end
end
return count
