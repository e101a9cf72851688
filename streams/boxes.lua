-- An entry's id as it stands in a box, padded so that boxes sort by it, and back.
local members = {}
local function boxed(id)
  if not members[id] then
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    members[id] = string.rep('0', 15 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
  end
  return members[id]
end
local function unboxed(member)
  local ms, seq = string.match(member, '^0*(%d+)%-0*(%d+)$')
  return ms .. '-' .. seq
end
