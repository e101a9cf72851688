-- carry: append a batch of entries that were somewhere else before, once, however often the call is repeated.
--
-- KEYS  1 stream  2 marker: how far its file or run has been appended to this stream  3 digest (the key of our hashes)
-- ARGV  1 number of the batch, from 1  2 ms that the marker lives  3 max_len of the stream
--       4 whether entries keep their ids where they can, 1 or 0
--       5 index = prefix, or '' for a stream without
--       6… of each entry: its id, how many arguments its fields are, and these, name by name with its value
-- Returns how many were appended; 0 where this batch has been before; -1 where they do not fit: nothing was done.
--
-- A script, because "was it before?", the entries and the marker are one act.  An entry keeps its id where that is higher
-- than any the stream has given out; else it gets a new one, and its old one is its `origin`.
local stream, marker = KEYS[1], KEYS[2]
local number, keep = tonumber(ARGV[1]), ARGV[4] == '1'
local kind = redis.call('TYPE', stream).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. stream .. ' is a ' .. kind) end
if tonumber(redis.call('GET', marker) or '0') >= number then return 0 end

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
if length + #entries > tonumber(ARGV[3]) then return -1 end

-- The first write: a full Redis refuses it, and then nothing is done; what follows it is refused no more.
redis.call('SET', marker, number, 'PX', ARGV[2])
for _, entry in ipairs(entries) do
  local added = keep and redis.pcall('XADD', stream, entry.id, unpack(entry.fields))
  if not added or added.err then
    if not entry.has_origin then
      entry.fields[#entry.fields + 1] = 'origin'
      entry.fields[#entry.fields + 1] = entry.id
    end
    added = redis.call('XADD', stream, '*', unpack(entry.fields))
  end
  if digest then list(digest, added, entry.fields) end
end
append_lines(ARGV[5], stream)
return #entries
