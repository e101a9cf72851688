-- skip: settle unseen what a group has not settled below an id.  Only for groups with `when_full = "skip"`.
--
-- KEYS  1 stream  2 cursor  3 leases  4 due  5 attempts  6 hints  7 skipped
-- ARGV  1 msgpack: {group, box, below, after}; after: the last pending id that an earlier call has seen, or '-'
-- Returns {'nogroup'} | {'more', skipped, after}: call again | {'done', skipped, after}.
--
-- A script, because an entry must leave box, pending list and due list as one act, and not while its key is in work:
-- what is in work is left to end by itself.  Its first write is XACK or XREADGROUP, which a full Redis never refuses.
local a = cmsgpack.unpack(ARGV[1])
local stream, cursor, leases, due, attempts, hints, skipped =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local SLICE = 500

-- with named.lua
local read_up_to
local groups = redis.pcall('XINFO', 'GROUPS', stream)
for _, row in ipairs(groups.err and {} or groups) do
  local told = named(row)
  if told.name == a.group then read_up_to = told['last-delivered-id'] end
end
-- Where Redis has lost the group, only its boxes know what it had taken: its next worker mends that.
if not read_up_to or redis.call('EXISTS', cursor) == 0 then return {'nogroup'} end

-- with boxes.lua

-- The key whose box holds it: the person, or the entry itself where the group has no order.
local function key_of(id)
  if redis.call('ZSCORE', a.box .. id, boxed(id)) then return id end
  local found = redis.call('XRANGE', stream, id, id)[1]
  for i = 1, found and #found[2] or 0, 2 do
    if found[2][i] == 'key' then return found[2][i + 1] end
  end
end

local count, after = 0, a.after
local pending = redis.call('XPENDING', stream, a.group, after == '-' and '-' or '(' .. after, '(' .. a.below, SLICE)
for _, row in ipairs(pending) do
  local id = row[1]
  local key = key_of(id)
  if not (key and redis.call('HEXISTS', leases, key) == 1) then
    redis.call('XACK', stream, a.group, id)
    redis.call('HDEL', attempts, id)
    if key then
      redis.call('ZREM', a.box .. key, boxed(id))
      if redis.call('EXISTS', a.box .. key) == 0 then
        redis.call('ZREM', due, key)
        redis.call('HDEL', hints, 'h:' .. key, 'n:' .. key, 'p:' .. key, 'w:' .. key)
      end
    end
    count = count + 1
  end
  after = id
end

local unread = {}
if #pending < SLICE then
  unread = redis.call('XRANGE', stream, '(' .. read_up_to, '(' .. a.below, 'COUNT', SLICE)
  if #unread > 0 then
    -- Read rather than XGROUP SETID, after which Redis no longer knows how far behind the group is.
    redis.call('XREADGROUP', 'GROUP', a.group, 'left', 'COUNT', #unread, 'NOACK', 'STREAMS', stream, '>')
    redis.call('SET', cursor, unread[#unread][1])
    count = count + #unread
  end
end
if count > 0 then redis.call('INCRBY', skipped, count) end
return {(#pending == SLICE or #unread == SLICE) and 'more' or 'done', count, after}
