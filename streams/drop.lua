-- drop: forget a group, in slices: what it had not settled is lost to it, and nothing is held back for it any more.
--
-- KEYS  1 stream  2 cursor  3 leases  4 due  5 attempts  6 hints  7 consumers  8 skipped  9 journal  10 groups
--         11 the group's bell
-- ARGV  1 group  2 box prefix  3 heartbeat prefix  4 '1': although somebody consumes it
-- Returns {'alive', workers}: nothing was done | {'more', boxes deleted} | {'dropped', boxes deleted}.
--
-- A script, because "does anybody consume it?" and "then it goes" must be one act.  The registration goes last, so what
-- was cut off in the middle is still listed, and the same command ends it.
local stream, cursor, leases, due, attempts, hints, consumers, skipped, journal, groups, bell =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local group, box, heartbeat, forced = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local SLICE = 500

local alive = 0
for _, consumer in ipairs(redis.call('HKEYS', consumers)) do
  alive = alive + redis.call('EXISTS', heartbeat .. consumer)
end
if alive > 0 and not forced then return {'alive', alive} end

redis.pcall('XGROUP', 'DESTROY', stream, group) -- an error where there is no such stream
local deleted = 0
local waiting = redis.call('ZRANGE', due, 0, SLICE - 1)
for _, key in ipairs(waiting) do deleted = deleted + redis.call('UNLINK', box .. key) end
if #waiting > 0 then redis.call('ZREM', due, unpack(waiting)) end
if #waiting == SLICE then return {'more', deleted} end
for _, key in ipairs(redis.call('HKEYS', leases)) do deleted = deleted + redis.call('UNLINK', box .. key) end
redis.call('UNLINK', cursor, leases, due, attempts, hints, consumers, skipped, journal, bell)
redis.call('HDEL', groups, group)
return {'dropped', deleted}
