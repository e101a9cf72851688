-- What Redis tells as names and values in turn, by its names.
local function named(flat)
  local told = {}
  for i = 1, #flat, 2 do told[flat[i]] = flat[i + 1] end
  return told
end
