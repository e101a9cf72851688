-- One command for many, in slices, for Lua cannot hand many thousands of arguments to a command.
local SLICE = 500 -- even: pairs stay together
local function in_slices(list, act, ...)
  for i = 1, #list, SLICE do
    local command = {...}
    for j = i, math.min(i + SLICE - 1, #list) do command[#command + 1] = list[j] end
    act(redis.call(unpack(command)))
  end
end
local function tell(list, ...) -- returns the sum of what it answers
  local sum = 0
  in_slices(list, function(answer) sum = sum + answer end, ...)
  return sum
end
local function answers(list, ...) -- returns one for each
  local found = {}
  in_slices(list, function(some)
    for _, answer in ipairs(some) do found[#found + 1] = answer end
  end, ...)
  return found
end
