-- ahead: append an entry while its turn is in work.
--
-- KEYS  1 leases  2 stream
-- ARGV  1 key of the turn  2 its token  3… the entry's fields
-- Returns 1, or 0: the turn is another's by now, or its person was erased; nothing was done.
--
-- A script, because what nobody may answer any more is not to be told of either.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
return 1
