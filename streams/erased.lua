-- Was an entry there when its person was erased?  `erased` is the shard's hash of tombstones, which erase.lua writes.
-- Mostly it is not there, and then nobody's is looked for: who knows that already sets `salt` to false.  Needs boxes.lua.
local salt
local function any_erased()
  if salt == nil then salt = redis.pcall('HGET', erased, 'salt') end
  return type(salt) == 'string'
end
local tombstones = {}
local function was_erased(person, at, id)
  if not (any_erased() and person) then return false end
  if tombstones[person] == nil then
    local told = redis.call('HGET', erased, redis.sha1hex(salt .. person))
    tombstones[person] = told and cmsgpack.unpack(told).last or {}
  end
  local last = tombstones[person][at]
  return last ~= nil and boxed(id) <= boxed(last)
end
