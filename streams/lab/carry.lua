-- carry: append a batch of entries that were somewhere else before, once, however often the call is repeated.
--
-- KEYS  1 stream  2 marker: how far its file or run has been appended to this stream  3 digest (the key of our hashes)
-- ARGV  1 number of the batch, from 1  2 ms that the marker lives  3 max_len of the stream
--       4 whether entries keep their ids where they can, 1 or 0
--       5 index = prefix, or '' for a stream without
--       6… of each entry: its id, how many arguments its fields are, and these, name by name with its value
-- Returns how many were appended, and how many of these got new ids; nothing was done at {0, 0}, where this batch has been
--   before, and at {-1, 0}, where they do not fit.
--
-- A script, because "was it before?", the entries and the marker are one act.  An entry keeps its id where that is higher
-- than any the stream has given out; else it gets a new one, and its old one is its `origin`.  Of several shards two may
-- have the same id: the second one keeps its time then.
local stream, marker = KEYS[1], KEYS[2]
local number, keep = tonumber(ARGV[1]), ARGV[4] == '1'
local kind = redis.call('TYPE', stream).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. stream .. ' is a ' .. kind) end
if tonumber(redis.call('GET', marker) or '0') >= number then return {0, 0} end

-- with index.lua
local digest = ARGV[5] ~= '' and redis.call('GET', KEYS[3])

local entries, at = {}, 6
while at <= #ARGV do
  local entry = {id = ARGV[at], fields = {}}
  for i = at + 2, at + 1 + tonumber(ARGV[at + 1]) do
    entry.fields[#entry.fields + 1] = ARGV[i]
    if (i - at) % 2 == 0 and ARGV[i] == 'origin' then entry.has_origin = true end
  end
  entries[#entries + 1], at = entry, at + 2 + #entry.fields
end
local length = kind == 'stream' and redis.call('XLEN', stream) or 0
if length + #entries > tonumber(ARGV[3]) then return {-1, 0} end

-- The first write: a full Redis refuses it, and then nothing is done; what follows it is refused no more.
redis.call('SET', marker, number, 'PX', ARGV[2])
local function add(id, entry) -- returns its id, nil where it cannot have this one
  local reply = redis.pcall('XADD', stream, id, unpack(entry.fields))
  return type(reply) == 'string' and reply or nil
end
-- The id behind the stream's last one where that is of the same millisecond.
local function beside(id)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local ms, number = string.match(last and last[1] or '', '^(%d+)%-(%d+)$')
  return ms and ms == string.match(id, '^(%d+)%-') and string.format('%s-%.0f', ms, number + 1)
end

local anew = 0
for _, entry in ipairs(entries) do
  local added = keep and add(entry.id, entry)
  if not added then
    if not entry.has_origin then
      entry.fields[#entry.fields + 1] = 'origin'
      entry.fields[#entry.fields + 1] = entry.id
    end
    local near = keep and beside(entry.id)
    added = near and add(near, entry)
  end
  if not added then
    added = redis.call('XADD', stream, '*', unpack(entry.fields))
    anew = anew + 1
  end
  if digest then list(digest, added, entry.fields) end
end
append_lines(ARGV[5], stream)
return {#entries, anew}
