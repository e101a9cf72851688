-- erase: put up a person's tombstone, and take away all that could still write of them.
--
-- KEYS  1 erased (the tombstones of this shard)  2 groups, then every key that the arguments name
-- ARGV  1 msgpack: {person, salt, keep_ms, bells = prefix, names = {group, …} that the caller knows,
--         streams = {key, …}, waiting = {{stream, waiting}, …},
--         groups = {{name, stream, leases, due, attempts, hints, consumers, box}, …}, state = {key, …}}
-- Returns {'groups'}: there is one that the caller does not know; nothing was done.  Else {'done', digest,
--   1 where there was a tombstone already, {highest id of each stream, in the order of `streams`}, turns in work that were taken away, entries that waited in
--   boxes, requests that waited, {1 or 0 for each of `state`: it was there}}.
--
-- A script, because after the tombstone nothing of this person may be in work: whoever had it in work is refused, and
-- whoever reads it later passes over it (erased.lua), while what the person writes from now on is new.
-- Everything that can fail is looked at before the first write, which is HDEL: a full Redis never refuses that one, nor
-- the later ones then.
local a = cmsgpack.unpack(ARGV[1])
local erased, groups = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local known = {}
for _, name in ipairs(a.names) do known[name] = true end
for _, name in ipairs(redis.call('HKEYS', groups)) do
  if not known[name] then return {'groups'} end
end

local function wrong(key, kind)
  local told = redis.call('TYPE', key).ok
  return told ~= kind and told ~= 'none' and redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. told)
end
local KINDS = {'stream', 'hash', 'zset', 'hash', 'hash', 'hash', 'zset'} -- of a group's keys, behind its name
local fault = wrong(erased, 'hash')
for _, key in ipairs(a.streams) do fault = fault or wrong(key, 'stream') end
for _, pair in ipairs(a.waiting) do fault = fault or wrong(pair[2], 'hash') end
for _, group in ipairs(a.groups) do
  for i, kind in ipairs(KINDS) do fault = fault or wrong(group[i + 1], kind) end
end
if fault then return fault end

-- with slices.lua
-- with boxes.lua

local function highest(stream)
  if redis.call('EXISTS', stream) == 0 then return '0-0' end
  local told = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #told, 2 do
    if told[i] == 'last-generated-id' then return told[i + 1] end
  end
end

-- Those that have had their time go, so that the hash does not grow for as long as somebody is erased every week.
local function forget_old_ones()
  local gone, flat = {}, redis.call('HGETALL', erased)
  for i = 1, #flat, 2 do
    if #flat[i] == 40 and cmsgpack.unpack(flat[i + 1]).till <= now then gone[#gone + 1] = flat[i] end
  end
  tell(gone, 'HDEL', erased)
end

local last = {}
local function put_up()
  redis.call('HSETNX', erased, 'salt', a.salt)
  local digest, of = redis.sha1hex(redis.call('HGET', erased, 'salt') .. a.person), {}
  local before = redis.call('HEXISTS', erased, digest)
  for i, stream in ipairs(a.streams) do
    last[i] = highest(stream)
    of[stream] = last[i]
  end
  redis.call('HSET', erased, digest, cmsgpack.pack({till = now + a.keep_ms, last = of}))
  -- What workers compare: never the same twice, whatever the clock does.
  local count = tonumber(redis.call('HGET', erased, 'count') or '0')
  redis.call('HSET', erased, 'count', string.format('%.0f', math.max(now * 1000, count + 1)))
  redis.call('PEXPIRE', erased, a.keep_ms)
  return digest, before
end

-- Of the newest turns that a consumer was granted, which it may ask for again; a record is as take.lua has it.
local function forget_grants(consumers)
  local flat = redis.call('HGETALL', consumers)
  for i = 1, #flat, 2 do
    local head, packed = string.match(flat[i + 1], '^(%-?%d+ %d+ )(.*)$')
    local told, kept = cmsgpack.unpack(packed or flat[i + 1]), {}
    local grants = packed and told or told.grants -- a worker of an older version has {call, grants}
    for _, grant in ipairs(grants) do
      if grant[1] ~= a.person then kept[#kept + 1] = grant end
    end
    if #kept < #grants then
      local left = packed and head .. cmsgpack.pack(kept) or cmsgpack.pack({call = told.call, grants = kept})
      redis.call('HSET', consumers, flat[i], left)
    end
  end
end

local in_work, boxes = 0, 0
local function take_away(group)
  local name, stream, leases, due, attempts, hints, consumers, box = unpack(group)
  local ids = redis.call('ZRANGE', box, 0, -1)
  for i, member in ipairs(ids) do ids[i] = unboxed(member) end
  tell(ids, 'XACK', stream, name)
  tell(ids, 'HDEL', attempts)
  boxes = boxes + #ids
  redis.call('UNLINK', box)
  in_work = in_work + redis.call('HDEL', leases, a.person)
  redis.call('ZREM', due, a.person)
  redis.call('HDEL', hints, 'h:' .. a.person, 'n:' .. a.person, 'p:' .. a.person, 'w:' .. a.person)
  forget_grants(consumers)
end

-- Who waits is rung for, and told when it asks (claim.lua).
local waiters = 0
local function send_away(stream, waiting)
  local flat = redis.call('HGETALL', waiting)
  for i = 1, #flat, 2 do
    local found = redis.call('XRANGE', stream, flat[i], flat[i])[1]
    for field = 1, found and #found[2] or 0, 2 do
      if found[2][field] == 'key' and found[2][field + 1] == a.person then
        local bell, ticket = string.match(flat[i + 1], '^%d+|([^|]*)|(.*)$')
        redis.call('XADD', a.bells .. bell, 'MAXLEN', '~', 1000, '*', 'ticket', ticket, 'entry', flat[i])
        redis.call('EXPIRE', a.bells .. bell, 3600)
        waiters = waiters + redis.call('HDEL', waiting, flat[i])
      end
    end
  end
end

redis.call('HDEL', erased, '')
forget_old_ones()
local digest, before = put_up()
for _, group in ipairs(a.groups) do take_away(group) end
for _, pair in ipairs(a.waiting) do send_away(pair[1], pair[2]) end
local there = {}
for i, key in ipairs(a.state) do there[i] = redis.call('UNLINK', key) end
return {'done', digest, before, last, in_work, boxes, waiters, there}
