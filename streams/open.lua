-- open: make sure the group exists, where it stopped, and that what was taken and not settled is pending in it.
--
-- KEYS  1 stream  2 cursor  3 leases  4 due  5 groups
-- ARGV  1 group  2 from: 'start', 'now', an id, or '-' and how many milliseconds ago  3 consumer that takes over what was pending  4 box prefix
--       5 registration (JSON)
-- Returns {1 where the group was made, entries made pending again}.
--
-- A group is made again at the cursor, never at '$', so a Redis that lost it loses no message.
-- with named.lua
local stream, cursor, leases, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, box = ARGV[1], ARGV[3], ARGV[4]
redis.call('HDEL', KEYS[5], '') -- a full Redis refuses the first write of a script, not the later ones, and never HDEL
redis.call('HSET', KEYS[5], group, ARGV[5])
local at = redis.call('GET', cursor)
local ago = string.match(ARGV[2], '^%-(%d+)$')
if ago then
  local time = redis.call('TIME')
  ARGV[2] = string.format('%.0f-0', math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - ago))
end
local from = at or (ARGV[2] == 'start' and '0-0') or (ARGV[2] == 'now' and '$') or ARGV[2]
local made = redis.pcall('XGROUP', 'CREATE', stream, group, from, 'MKSTREAM')
if made.err then
  if not string.find(made.err, 'BUSYGROUP') then return redis.error_reply(made.err) end
  -- Made by somebody's own XGROUP CREATE: what it has read so far is not ours to read again.
  if not at then
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local told = named(row)
      if told.name == group then redis.call('SET', cursor, told['last-delivered-id']) end
    end
  end
  return {0, 0}
end
if not at then
  if from == '$' then
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    from = last and last[1] or '0-0'
  end
  redis.call('SET', cursor, from)
  return {1, 0}
end
-- with boxes.lua
-- A stream that was deleted must not number its new entries below what the group has seen, nor one that is only empty
-- below what it had.
local last = named(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
if boxed(at) > boxed(last) then redis.pcall('XSETID', stream, at) end
local keys = redis.call('HKEYS', leases)
for _, key in ipairs(redis.call('ZRANGE', due, 0, -1)) do keys[#keys + 1] = key end
local count = 0
for _, key in ipairs(keys) do
  local members = redis.call('ZRANGE', box .. key, 0, -1)
  for i = 1, #members, 500 do
    local ids = {}
    for j = i, math.min(i + 499, #members) do ids[#ids + 1] = unboxed(members[j]) end
    local claim = {'XCLAIM', stream, group, consumer, 0}
    for _, id in ipairs(ids) do claim[#claim + 1] = id end
    claim[#claim + 1] = 'FORCE'
    claim[#claim + 1] = 'JUSTID'
    redis.call(unpack(claim))
    count = count + #ids
  end
end
return {1, count}
