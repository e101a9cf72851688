-- copy: carry the next entries of a stream over to another one, under the same ids.
--
-- KEYS  1 stream  2 where it is written anew
-- ARGV  1 entries at most  2 milliseconds that what is written anew lives, should nobody go on
-- Returns how many were carried over.
--
-- A script, because the entries had better stay where they are.  It goes on behind what is there already, so that it
-- may be repeated.  Its first write is XADD, which a full Redis refuses: then nothing was done.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local rows = redis.call('XRANGE', KEYS[1], last and '(' .. last[1] or '-', '+', 'COUNT', tonumber(ARGV[1]))
for _, row in ipairs(rows) do redis.call('XADD', KEYS[2], row[1], unpack(row[2])) end
if #rows > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return #rows
