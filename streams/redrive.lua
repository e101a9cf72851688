-- redrive: put dead letters back onto their stream, each once, for the group that buried it and no other.
--
-- KEYS  1 dead stream  2 stream  3 groups  4 what this call was answered  5 erased  6 digest (the key of our hashes)
-- ARGV  1 msgpack: {name of the stream, max_len, keep_ms, redriven = prefix by entry, letters = prefix by letter, told_ms,
--       turns = {{id of a dead letter, …}, …}, index = prefix, or '' for a stream without}
-- Returns for each id, in their order, {'done', id of the new entry}; or, nothing done for it, {'gone'}: it is not there
--   (any more), or about to go, {'full'}: its turn does not fit into the stream's max_len, {'nobody', group}: no such group
--   reads the stream, and a message for it would
--   be settled unseen by all others, {'foreign'}: it has not the form of what we bury.
--
-- A script, because "is it still there?", "back on the stream" and "no longer dead" must be one act.  The same call again
-- returns the same answer.  XADD comes first: a full Redis refuses it as the first write of a script, and then nothing
-- is done; what follows it is refused no more.  It passes dedupe by, which is append's, and starts without a history:
-- the attempts of the old entry went when it was buried.
local a = cmsgpack.unpack(ARGV[1])
local dead, stream, groups, answered, erased = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local before = redis.call('GET', answered)
if before then return cmsgpack.unpack(before) end

-- with boxes.lua
-- with erased.lua
-- with index.lua
local digest = a.index ~= '' and redis.call('GET', KEYS[6])

local HEADER = {'origin', 'group', 'reason', 'attempts', 'first_ms', 'last_ms'}
local OURS = {['for'] = true, origin = true} -- what an earlier redrive added

for _, key in ipairs({dead, stream}) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind) end
end
local length = redis.call('XLEN', stream)

local known = {}
local function reads_it(group)
  if known[group] == nil then
    local told = redis.pcall('HGET', groups, group)
    local sound, registered = pcall(cjson.decode, type(told) == 'string' and told or '')
    known[group] = sound and type(registered) == 'table' and registered.reads == a.name
  end
  return known[group]
end

local function header_of(flat)
  local header = {}
  for i, name in ipairs(HEADER) do
    if flat[2 * i - 1] ~= name then return nil end
    header[name] = flat[2 * i]
  end
  return header
end

local function tell(name, entry)
  redis.pcall('RPUSH', name, entry)
  redis.pcall('PEXPIRE', name, a.told_ms)
end

local function redrive(id, fits)
  local found = redis.call('XRANGE', dead, id, id)[1]
  if not found then return {'gone'} end
  local flat = found[2]
  local header = header_of(flat)
  if not header then return {'foreign'} end
  if not reads_it(header.group) then return {'nobody', header.group} end
  if not fits then return {'full'} end
  local fields, first = {}, header.origin
  for i = 2 * #HEADER + 1, #flat, 2 do
    if flat[i] == 'key' and was_erased(flat[i + 1], dead, id) then return {'gone'} end
    if OURS[flat[i]] then
      if flat[i] == 'origin' then first = flat[i + 1] end
    else
      fields[#fields + 1] = flat[i]
      fields[#fields + 1] = flat[i + 1]
    end
  end
  local entry = redis.call('XADD', stream, '*', 'for', header.group, 'origin', first, unpack(fields))
  if digest then list(digest, entry, fields) end
  redis.call('XDEL', dead, id)
  if a.told_ms > 0 then
    tell(a.redriven .. first, entry)
    tell(a.letters .. id, entry)
  end
  length = length + 1
  return {'done', entry}
end

local answer, any = {}, false
for _, ids in ipairs(a.turns) do
  -- All of a turn or none: half of it would be answered alone.
  local fits = length + #ids <= a.max_len
  for _, id in ipairs(ids) do
    answer[#answer + 1] = redrive(id, fits)
    any = any or answer[#answer][1] == 'done'
  end
end
append_lines(a.index, stream)
if any then redis.call('SET', answered, cmsgpack.pack(answer), 'PX', a.keep_ms) end
return answer
