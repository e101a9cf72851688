-- sift: entries of a stream in which a text stands, of those between two ids; the others stay where they are.
--
-- KEYS  1 stream
-- ARGV  1 msgpack: {from, to: as XRANGE has them, back: the newest first, most: entries looked at, enough: entries
--       found, field: in which field alone, or '', texts = {one of these}, bytes: values looked at}
-- Returns {entries looked at, id of the last one or '', whether there may be more: 0 or 1, the entries found}.
--
-- A script, because a million entries are looked at sooner than sent.  It reads, and ends after `bytes` as well, so that
-- nobody waits for it for long.
local a = cmsgpack.unpack(ARGV[1])
local PAGE = 100
local found, looked, bytes, last, more = {}, 0, 0, '', 1
local at = a.from

local function holds(flat)
  for i = 1, #flat, 2 do
    if a.field == '' or flat[i] == a.field then
      bytes = bytes + #flat[i + 1]
      for _, text in ipairs(a.texts) do
        if string.find(flat[i + 1], text, 1, true) then return true end
      end
    end
  end
end

-- XREVRANGE up to an id below the stream's first one steps over the whole stream.
if a.back and #redis.call('XRANGE', KEYS[1], a.to, at, 'COUNT', 1) == 0 then return {0, '', 0, {}} end

while looked < a.most and #found < a.enough and bytes < a.bytes do
  local asked = math.min(PAGE, a.most - looked)
  local command = a.back and 'XREVRANGE' or 'XRANGE'
  local rows = redis.call(command, KEYS[1], at, a.to, 'COUNT', asked)
  for _, entry in ipairs(rows) do
    looked, last = looked + 1, entry[1]
    if holds(entry[2]) then
      found[#found + 1] = entry
      if #found == a.enough then break end
    end
  end
  if #rows < asked and #found < a.enough then
    more = 0
    break
  end
  at = '(' .. last
end
return {looked, last, more, found}
