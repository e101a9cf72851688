-- An entry of `inbound` is listed under each name that it may be asked for by: its person, its trace, its id.  A line of the
-- index is the entry's id and, of each name, what a keyed hash makes of it; index.py reads them.  A name that says itself
-- when it was made, and says true, is not there: whoever asks for it looks around that time.
local ASKEW_MS, SPAN_MS, KEPT = 60000, 1048576, 660
local lines = {} -- by part of the index, which is a span of time
local function id_in(body)
  local sound, told = pcall(cjson.decode, body)
  return sound and type(told) == 'table' and type(told.message_id) == 'string' and told.message_id or nil
end

local function ms_of_entry(entry) return tonumber(string.match(entry, '^%d+')) end

local function add_line(at_ms, entry, names) -- what stands behind its id
  local part = math.floor(at_ms / SPAN_MS)
  lines[part] = lines[part] or {}
  table.insert(lines[part], entry .. names .. '\n')
end

local function list(key, entry, flat)
  local at_ms, line, message_id = ms_of_entry(entry), {''}, nil
  local function under(name, made)
    local made_ms = made and tonumber(made, 16)
    if not made_ms or math.abs(made_ms - at_ms) > ASKEW_MS then
      line[#line + 1] = string.sub(redis.sha1hex(key .. name), 1, 8)
    end
  end
  for i = 1, #flat, 2 do
    if flat[i] == 'key' then under(flat[i + 1]) end
    if flat[i] == 'body' then message_id = id_in(flat[i + 1]) end
    if flat[i] == 'trace' then under(string.sub(flat[i + 1], 4, 35), string.sub(flat[i + 1], 4, 15)) end
  end
  if message_id then
    local hex = #message_id == 28 and string.match(message_id, '^msg_([0-9a-f]+)$')
    under(message_id, hex and string.sub(hex, 1, 12))
  end
  add_line(at_ms, entry, table.concat(line, ' '))
end

-- What was listed, in one write for each part, behind all others: that it fails is no reason to refuse an entry.
local function append_lines(index, stream)
  for part, told in pairs(lines) do
    local text, key = table.concat(told), index .. part
    if redis.pcall('APPEND', key, text) == #text then
      redis.call('PEXPIRE', key, KEPT * SPAN_MS)
      -- What has gone from the stream goes from here.
      local oldest, gone = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1], {}
      local first = math.floor(ms_of_entry(oldest) / SPAN_MS)
      for before = math.max(0, part - KEPT), math.min(first, part) - 1 do gone[#gone + 1] = index .. before end
      if #gone > 0 then redis.call('UNLINK', unpack(gone)) end
    end
  end
end
