-- Does what was brought supersede the turn that its key has in work, which holds `token`?  Whoever has it in work is
-- told by its bell.  Not for what no meter counts either, such as a reaction, nor where one turn cannot hold all that is
-- in the box: what was brought would wait for the next one all the same.
local function supersedes(key, brought, token) -- the ids of what was brought
  local uncounted, counts, chars = uncounted_types(), false, 0
  for _, id in ipairs(brought) do counts = counts or not uncounted[just_read[id].fields.type or ''] end
  local ids = of_box(key, a.turn_max + 1)
  if not counts or #ids > a.turn_max then return false end
  for _, id in ipairs(ids) do
    local found = just_read[id] or redis.call('XRANGE', stream, id, id)[1]
    chars = chars + (found and characters(body_of(found[2])) or 0)
  end
  if chars > a.turn_chars then return false end
  local bell = a.bells .. string.match(token, '^[^.]+')
  redis.call('XADD', bell, 'MAXLEN', '~', 1000, '*', 'newer', token)
  redis.call('EXPIRE', bell, 3600)
  return true
end
