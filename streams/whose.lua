-- whose: which of the next entries of a stream are a person's?
--
-- KEYS  1 stream
-- ARGV  1 person  2 the id to start behind, or '-'  3 the last id, or '+'  4 entries to look at  5 '1': with bodies
-- Returns {id of the last entry looked at or '', how many those were, {id, …} of the person's, {body, …} of these}.
--
-- A script, because the entries of all others had better stay where they are.  It changes nothing.
--
-- An entry says whose it is.  One of a group without order that has named no key has an entry's id there; then it is
-- this person's if its body names them.
local person, from, to, most, bodies = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local named, ENTRY = cjson.encode(person), '^' .. string.rep('%d', 13) .. '%d*%-%d+$'
local ids, texts, last = {}, {}, ''
local rows = redis.call('XRANGE', KEYS[1], from == '-' and '-' or '(' .. from, to, 'COUNT', most)
for _, row in ipairs(rows) do
  local key, body = '', ''
  last = row[1]
  for i = 1, #row[2], 2 do
    if row[2][i] == 'key' then key = row[2][i + 1] elseif row[2][i] == 'body' then body = row[2][i + 1] end
  end
  if key == person or (string.find(key, ENTRY) and string.find(body, named, 1, true)) then
    ids[#ids + 1] = last
    if bodies then texts[#texts + 1] = body end
  end
end
return {last, #rows, ids, texts}
