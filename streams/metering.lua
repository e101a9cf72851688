-- The meter of take.lua: each message of a key is counted once, when it is first started, in a window that the first
-- of it opens.  ARGV are take.lua's.
local function uncounted_types()
  local types = {}
  for i = RECALL + a.recall + 1, #ARGV do types[ARGV[i]] = true end
  return types
end

-- What was put back from the dead letters (`origin`) was counted when it first came.
local not_metered
local function metered(key, fields, state)
  if a.meter == '' or fields.replayed or fields.origin or state[a.unless] then return '' end
  not_metered = not_metered or uncounted_types()
  if not_metered[fields.type or ''] then return '' end
  local count = redis.pcall('INCR', a.meter .. key)
  if type(count) ~= 'number' then return '' end
  if count == 1 then redis.call('PEXPIRE', a.meter .. key, a.window_ms) end
  return tostring(count)
end
