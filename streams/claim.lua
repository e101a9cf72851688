-- claim: a waiting request asks for its reply.  The first claim of an open door is final: the webhook stays silent.
--
-- KEYS  1 door of the entry  2 waiting  3 cursor and 4 box of the answering group for this person  5 erased  6 stream
-- ARGV  1 entry id  2 ticket  3 '1': it stops waiting, whatever the answer  4 prefix of doors  5 prefix of bells
--       6 msgpack: {{leases, due, hints, bell}, …} of the groups that may hold the reply back  7 key (the person)
-- Returns {'claimed', status, answer} | {'merged', into} | {'pending'} | {'webhook'} | {'erased'}.
--
-- A script, because "is it still mine?" and "now it is" must be one act.
local entry, ticket, stop = ARGV[1], ARGV[2], ARGV[3] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function withdraw()
  local waiter = redis.call('HGET', KEYS[2], entry)
  if waiter and string.match(waiter, '^%d+|[^|]*|(.*)$') == ticket then redis.call('HDEL', KEYS[2], entry) end
end

local erased = KEYS[5]
-- with boxes.lua
-- with erased.lua

local function settled()
  if redis.call('ZSCORE', KEYS[4], boxed(entry)) then return false end
  return boxed(entry) <= boxed(redis.call('GET', KEYS[3]) or '0-0')
end

-- Whoever holds the reply back for this request may let go of it now.
local function wake()
  for _, group in ipairs(cmsgpack.unpack(ARGV[6])) do
    local leases, due, hints, bell = unpack(group)
    if redis.call('HEXISTS', leases, ARGV[7]) == 1 then
      redis.call('HSET', hints, 'w:' .. ARGV[7], '1')
    elseif redis.call('HGET', hints, 'p:' .. ARGV[7]) == 'door' then
      redis.call('HDEL', hints, 'p:' .. ARGV[7])
      redis.call('ZADD', due, 'XX', string.format('%.0f', now), ARGV[7])
      redis.call('XADD', bell, 'MAXLEN', '~', 1000, '*', 'claimed', entry)
      redis.call('EXPIRE', bell, 3600)
    end
  end
end

redis.call('HDEL', KEYS[2], '') -- a full Redis refuses the first write of a script, not the later ones, and never HDEL
if was_erased(ARGV[7], KEYS[6], entry) then
  withdraw()
  return {'erased'}
end
local door = KEYS[1]
-- A door tells whose it is: shards that have moved together may have had an entry of one id each.
local function ours(name)
  local person = redis.call('HGET', name, 'key')
  return not person or person == ARGV[7]
end
local into = ours(door) and redis.call('HGET', door, 'into')
if into then door = ARGV[4] .. into end
local state, deadline, status, answer, others
if ours(door) then
  state, deadline, status, answer, others =
    unpack(redis.call('HMGET', door, 'state', 'deadline', 'status', 'answer', 'others'))
end
if not state then
  if stop then withdraw() end
  return {(not into and not settled()) and 'pending' or 'webhook'}
end
if state == 'open' and tonumber(deadline) <= now then
  redis.call('HSET', door, 'state', 'webhook')
  state = 'webhook'
end
if state == 'webhook' then return {'webhook'} end
if into then
  if state == 'http' then return {'merged', into} end
  return {'pending'}
end
if state == 'open' then
  redis.call('HSET', door, 'state', 'http')
  for _, other in ipairs(cmsgpack.unpack(others)) do
    if other.entry ~= entry then
      redis.call('XADD', ARGV[5] .. other.bell, 'MAXLEN', '~', 1000, '*', 'ticket', other.ticket, 'entry', other.entry)
    end
  end
  wake()
end
return {'claimed', status, answer}
