-- An entry's id as it stands in a box, padded so that boxes sort by it, and back.
local members = {}
local function boxed(id)
  if not members[id] then
    local dash, zeros = string.find(id, '-', 1, true), '00000000000000000000'
    members[id] = string.sub(zeros, 1, 16 - dash) .. string.sub(id, 1, dash)
      .. string.sub(zeros, 1, 20 - (#id - dash)) .. string.sub(id, dash + 1)
  end
  return members[id]
end
local function unboxed(member)
  local ms, seq = string.match(member, '^0*(%d+)%-0*(%d+)$')
  return ms .. '-' .. seq
end
