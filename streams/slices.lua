-- One command for many, in slices, for Lua cannot hand many thousands of arguments to a command.
local SLICE = 500 -- even: pairs stay together
local function slice(list, from, ...)
  local command, n = {...}, select('#', ...)
  for i = from, math.min(from + SLICE - 1, #list) do command[n + i - from + 1] = list[i] end
  return redis.call(unpack(command))
end
local function tell(list, ...) -- returns the sum of what it answers
  local sum = 0
  for from = 1, #list, SLICE do sum = sum + slice(list, from, ...) end
  return sum
end
local function answers(list, ...) -- returns one for each
  if #list > 0 and #list <= SLICE then return slice(list, 1, ...) end
  local found = {}
  for from = 1, #list, SLICE do
    for _, answer in ipairs(slice(list, from, ...)) do found[#found + 1] = answer end
  end
  return found
end
