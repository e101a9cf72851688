-- UTF-8: is a text that, and how many characters has it?
local function well_formed() -- https://www.unicode.org/versions/Unicode16.0.0/core-spec/chapter-3/#G27506, table 3-7
  return {'^[%z\1-\127]+', '^[\194-\223][\128-\191]', '^\224[\160-\191][\128-\191]',
  '^[\225-\236\238\239][\128-\191][\128-\191]', '^\237[\128-\159][\128-\191]',
  '^\240[\144-\191][\128-\191][\128-\191]', '^[\241-\243][\128-\191][\128-\191][\128-\191]',
  '^\244[\128-\143][\128-\191][\128-\191]'}
end
local function is_utf8(text)
  local at, found, patterns = 1, nil, well_formed()
  while at <= #text do
    found = nil
    for _, pattern in ipairs(patterns) do
      found = found or select(2, string.find(text, pattern, at))
    end
    if not found then return false end
    at = found + 1
  end
  return true
end
local function characters(text) return select(2, string.gsub(text, '[^\128-\191]', '')) end
