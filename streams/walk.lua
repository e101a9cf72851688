-- walk: step over entries of a stream, to count them, or to find the one so many steps on.
--
-- KEYS  1 stream
-- ARGV  1 the id to start behind, or '-'  2 steps at most
-- Returns {steps made, id of the last entry stepped on or ''}.
--
-- A script, because Redis has no command for it and the entries themselves had better stay where they are.
local from, most = ARGV[1] == '-' and '-' or '(' .. ARGV[1], tonumber(ARGV[2])
local steps, last = 0, ''
while steps < most do
  local asked = math.min(500, most - steps)
  local rows = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', asked)
  if #rows > 0 then
    steps, last = steps + #rows, rows[#rows][1]
    from = '(' .. last
  end
  if #rows < asked then break end
end
return {steps, last}
