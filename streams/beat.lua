-- beat: a consumer is alive, and names the leases it holds.
--
-- KEYS  1 leases  2 due  3 attempts  4 hints  5 consumers  6 heartbeat  7 erased
-- ARGV  1 msgpack: {consumer, seen, held = {token, …}, ttl_ms, box, supersede}
-- Returns {lost, next_due_ms or -1, newer, erased}: the named tokens that are no longer in force (the worker cancels them), and
--   with `supersede` those whose turns are superseded, as take.lua has told their holder; erased: another word for each
--   erase of somebody (erase.lua), '' for none.
--
-- A lease granted by a call whose answer the consumer has seen, and which it does not name, was lost on the way and
-- would mute its key for good: it becomes due again, its attempt taken back, for it never started.
local a = cmsgpack.unpack(ARGV[1])
local leases, due, attempts, hints, consumers, heartbeat = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HDEL', hints, '')

-- with boxes.lua

local held, in_force, newer = {}, {}, {}
for _, token in ipairs(a.held) do held[token] = true end
local flat = redis.call('HGETALL', leases)
for i = 1, #flat, 2 do
  local key, token = flat[i], flat[i + 1]
  local owner, call, size = string.match(token, '^([^.]+)%.(%d+)%.%d+%.(%d+)$')
  if owner == a.consumer then
    if held[token] then
      in_force[token] = true
      if a.supersede and string.find(redis.call('HGET', hints, 'n:' .. key) or '', ':newer$') then
        newer[#newer + 1] = token
      end
    elseif tonumber(call) <= a.seen then
      redis.call('HDEL', leases, key)
      for _, member in ipairs(redis.call('ZRANGE', a.box .. key, 0, tonumber(size) - 1)) do
        local id = unboxed(member)
        local starts, rest = string.match(redis.call('HGET', attempts, id) or '', '^(%d+)(:.*)$')
        if starts then redis.call('HSET', attempts, id, math.max(0, tonumber(starts) - 1) .. rest) end
      end
      redis.call('ZADD', due, string.format('%.0f', now), key)
    end
  end
end
redis.call('SET', heartbeat, string.format('%.0f', now), 'PX', a.ttl_ms)
if redis.call('HEXISTS', consumers, a.consumer) == 0 then
  redis.call('HSET', consumers, a.consumer, '-1 0 ' .. cmsgpack.pack({}))
end
local lost = {}
for _, token in ipairs(a.held) do
  if not in_force[token] then lost[#lost + 1] = token end
end
local upcoming = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
local count = redis.pcall('HGET', KEYS[7], 'count')
return {lost, upcoming[2] and math.max(0, tonumber(upcoming[2]) - now) or -1, newer, type(count) == 'string' and count or ''}
