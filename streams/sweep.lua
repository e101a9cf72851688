-- sweep: hand on what a dead consumer left.
--
-- KEYS  1 stream  2 leases  3 due  4 attempts  5 hints  6 consumers  7 heartbeat of the dead consumer  8 the group's bell
-- ARGV  1 msgpack: {group, dead, box, leaving}; leaving: it says goodbye itself, nothing crashed
-- Returns {'alive'} where its heartbeat is back; else {'swept', leases freed} or {'more', leases freed}: call again.
--
-- Never XAUTOCLAIM, which chooses by idle time and so robs slow consumers that live.  What was pending goes to the
-- consumer `left`, who never reads: acknowledging asks for no owner, and whoever sweeps may be of another group.
local a = cmsgpack.unpack(ARGV[1])
local stream, leases, due, attempts, hints, consumers, heartbeat, bell =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
if not a.leaving and redis.call('EXISTS', heartbeat) == 1 then return {'alive'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HDEL', hints, '')

-- with boxes.lua
local function recount(key, size)
  for _, member in ipairs(redis.call('ZRANGE', a.box .. key, 0, size - 1)) do
    local id = unboxed(member)
    local starts, crashes, rest = string.match(redis.call('HGET', attempts, id) or '', '^(%d+):(%d+)(:.*)$')
    if starts and a.leaving then
      redis.call('HSET', attempts, id, math.max(0, tonumber(starts) - 1) .. ':' .. crashes .. rest)
    elseif starts then
      redis.call('HSET', attempts, id, starts .. ':' .. (tonumber(crashes) + 1) .. rest)
    end
  end
end

local freed = 0
local flat = redis.call('HGETALL', leases)
for i = 1, #flat, 2 do
  local key, token = flat[i], flat[i + 1]
  local owner, size = string.match(token, '^([^.]+)%.%d+%.%d+%.(%d+)$')
  if owner == a.dead then
    redis.call('HDEL', leases, key)
    recount(key, tonumber(size))
    redis.call('HDEL', hints, 'n:' .. key, 'w:' .. key)
    redis.call('ZADD', due, string.format('%.0f', now), key)
    freed = freed + 1
  end
end
if freed > 0 then
  redis.call('XADD', bell, 'MAXLEN', '~', 1000, '*', 'swept', a.dead)
  redis.call('EXPIRE', bell, 3600)
end
local pending = redis.pcall('XPENDING', stream, a.group, '-', '+', 500, a.dead)
if pending.err then pending = {} end
if #pending > 0 then
  local claim = {'XCLAIM', stream, a.group, 'left', 0}
  for _, row in ipairs(pending) do claim[#claim + 1] = row[1] end
  claim[#claim + 1] = 'JUSTID'
  redis.call(unpack(claim))
end
if #pending == 500 then return {'more', freed} end
redis.pcall('XGROUP', 'DELCONSUMER', stream, a.group, a.dead)
redis.call('HDEL', consumers, a.dead)
redis.call('DEL', heartbeat)
return {'swept', freed}
