-- absorb: add what another shard has counted of a bucket to what is counted of it here.
--
-- KEYS  1 what was brought: a hash of counts or a HyperLogLog  2 where it goes
-- Returns 1, or 0 where it has been added already.
--
-- A script, because what was added and not yet taken away would be added again by a move that goes on.
local brought, there = redis.call('TYPE', KEYS[1]).ok, redis.call('TYPE', KEYS[2]).ok
if brought == 'none' then return 0 end
if there == 'none' then
  redis.call('RENAME', KEYS[1], KEYS[2])
  return 1
end
if brought == 'hash' and there == 'hash' then
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do redis.pcall('HINCRBY', KEYS[2], flat[i], flat[i + 1]) end
elseif brought == 'string' and there == 'string' then
  redis.pcall('PFMERGE', KEYS[2], KEYS[1])
end
redis.call('DEL', KEYS[1])
return 1
