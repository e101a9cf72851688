-- take: read new entries into their keys' boxes, then lease the keys whose time has come.
--
-- KEYS  1 stream  2 cursor  3 leases  4 due  5 attempts  6 hints  7 consumers  8 heartbeat  9 dead stream
-- ARGV  1 msgpack: {group, consumer, call, room, count, ttl_ms, box, order, debounce_ms, debounce_max_ms, turn_max,
--         turn_chars, replay, dead_max, suspect_after, suspects, recall = {prefix, …},
--         meter = {prefix, window_ms, skip, unless}}
-- Returns {'ok', now_ms, read, next_due_ms or -1, turns, cursor}; a turn is {key, token, progress, entries, state, ms until
--   its meter's window ends} and an entry {id, starts, crashes, count or '', fields}.
--   {'nogroup'} where the group is gone, or we know nothing of it: nothing was done.
--
-- A script, because reading and leasing as two acts break the order: A reads 1, B reads 2, B takes first.
-- The same call number again returns the same grants and reads nothing.
local a = cmsgpack.unpack(ARGV[1])
local stream, cursor, leases, due, attempts, hints, consumers, heartbeat, dead =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', cursor) == 0 then return {'nogroup'} end

-- A full Redis refuses the first write of a script, not the later ones, and never HDEL.
redis.call('HDEL', hints, '')
-- Mostly nobody has one, and then nobody's is looked for.
local hinted = redis.call('EXISTS', hints) == 1
local function hint_at(name, value)
  redis.call('HSET', hints, name, value)
  hinted = true
end

local function ms_of(id) return tonumber(string.match(id, '^0*(%d+)%-')) end
local function boxed(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return string.rep('0', 15 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
end
local function unboxed(member)
  local ms, seq = string.match(member, '^0*(%d+)%-0*(%d+)$')
  return ms .. '-' .. seq
end
local function fields_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

local WELL_FORMED = { -- https://www.unicode.org/versions/Unicode16.0.0/core-spec/chapter-3/#G27506, table 3-7
  '^[%z\1-\127]+', '^[\194-\223][\128-\191]', '^\224[\160-\191][\128-\191]',
  '^[\225-\236\238\239][\128-\191][\128-\191]', '^\237[\128-\159][\128-\191]',
  '^\240[\144-\191][\128-\191][\128-\191]', '^[\241-\243][\128-\191][\128-\191][\128-\191]',
  '^\244[\128-\143][\128-\191][\128-\191]',
}
local function is_utf8(text)
  local at, found = 1, not string.find(text, '[\128-\255]')
  if found then return true end
  while at <= #text do
    found = nil
    for _, pattern in ipairs(WELL_FORMED) do
      found = found or select(2, string.find(text, pattern, at))
    end
    if not found then return false end
    at = found + 1
  end
  return true
end

-- A key that is no text names nobody; left in a box it would stop every worker that takes it.
local function bury(id, flat)
  if redis.call('TYPE', dead).ok == 'none' or redis.call('TYPE', dead).ok == 'stream' then
    redis.call('XADD', dead, 'MAXLEN', '~', a.dead_max, '*', 'origin', id, 'group', a.group, 'reason',
      'its key is not UTF-8', 'attempts', '0', 'first_ms', '', 'last_ms', string.format('%.0f', now),
      unpack(flat, 1, math.min(#flat, 2000)))
  end
end

local function body_of(flat)
  for i = 1, #flat, 2 do
    if flat[i] == 'body' then return flat[i + 1] end
  end
  return ''
end
local function characters(text) return select(2, string.gsub(text, '[^\128-\191]', '')) end

-- When a key's turn may start: each message restarts the wait, which is bounded from the first.  Where the clock was set
-- back and ids lie ahead of it, it is bounded from now, and what `at` has become by then is not put off any more.
local function window(first_ms, last_ms, at)
  local ends = math.min(first_ms + a.debounce_max_ms, last_ms + a.debounce_ms, now + a.debounce_max_ms)
  return string.format('%.0f', at and first_ms > now and math.min(ends, at) or ends)
end

-- attempts: `starts:crashes:count:first_ms:progress` of an entry that has been started.
local function noted(note)
  if not note then return 0, 0, '', '', '' end
  local starts, crashes, count, first, progress = string.match(note, '^(%d+):(%d+):(%d*):(%d*):(.*)$')
  return tonumber(starts), tonumber(crashes), count, first, progress
end

-- A key in work keeps in hint `n` when its next turn may start, `at:first`; at 0 is at once, whatever comes later.
local function schedule_next(key, ms, hurry)
  local hint = hinted and redis.call('HGET', hints, 'n:' .. key)
  local at, first = string.match(hint or '', '^(%d+):(%d+)$')
  first = first or string.format('%.0f', ms)
  if hurry or at == '0' then at = '0' else at = window(tonumber(first), ms, tonumber(at)) end
  hint_at('n:' .. key, at .. ':' .. first)
end

local function schedule(key, id, hurry)
  local ms = ms_of(id)
  if redis.call('HEXISTS', leases, key) == 1 then return schedule_next(key, ms, hurry) end
  -- A key that waits for a retry keeps waiting: an earlier start would overtake what failed.
  if hinted and redis.call('HEXISTS', hints, 'p:' .. key) == 1 then return end
  if hurry then
    hint_at('h:' .. key, '1')
    redis.call('ZADD', due, 'LT', string.format('%.0f', now), key)
  elseif a.debounce_ms == 0 then
    redis.call('ZADD', due, 'NX', string.format('%.0f', math.min(ms, now)), key)
  elseif not hinted or redis.call('HEXISTS', hints, 'h:' .. key) == 0 then
    local first = ms_of(redis.call('ZRANGE', a.box .. key, 0, 0)[1])
    redis.call('ZADD', due, window(first, ms, tonumber(redis.call('ZSCORE', due, key))), key)
  end
end

local just_read = {} -- what this very call has read, which need not be read again
-- The entries of a turn: the oldest of the box, those that are gone from the stream acknowledged.
local function gather(key, limit)
  local entries, gone, bytes, chars = {}, {}, 0, nil
  for _, member in ipairs(redis.call('ZRANGE', a.box .. key, 0, limit - 1)) do
    local id = unboxed(member)
    local found = just_read[id] or redis.call('XRANGE', stream, id, id)[1]
    if not found then
      gone[#gone + 1] = id
      redis.call('ZREM', a.box .. key, member)
      redis.call('XACK', stream, a.group, id)
      redis.call('HDEL', attempts, id)
    else
      -- Characters, of which there are no more than bytes, are counted only where it may be too many.
      if limit > 1 then
        bytes = bytes + #body_of(found[2])
        if #entries > 0 and bytes > a.turn_chars then
          if not chars then
            chars = 0
            for _, entry in ipairs(entries) do chars = chars + characters(body_of(entry[2])) end
          end
          chars = chars + characters(body_of(found[2]))
          if chars > a.turn_chars then break end
        end
      end
      entries[#entries + 1] = found
    end
  end
  return entries, gone
end

local function recalled(key)
  if #a.recall == 0 then return {} end
  local names = {}
  for i, prefix in ipairs(a.recall) do names[i] = prefix .. key end
  return redis.call('MGET', unpack(names)) -- of another type than text is as if it were not there
end

-- What was put back from the dead letters (`origin`) was counted when it first came.
local function metered(key, fields)
  local m = a.meter
  if not m or fields.replayed or fields.origin or m.skip[fields.type or ''] then return '' end
  if m.unless and redis.call('EXISTS', m.unless .. key) == 1 then return '' end
  local count = redis.pcall('INCR', m.prefix .. key)
  if type(count) ~= 'number' then return '' end
  if count == 1 then redis.call('PEXPIRE', m.prefix .. key, m.window_ms) end
  return tostring(count)
end

local function granted(key, token, found, fresh)
  local ids, entries, progress = {}, {}, ''
  for i, entry in ipairs(found) do ids[i] = entry[1] end
  local notes = redis.call('HMGET', attempts, unpack(ids))
  for i, entry in ipairs(found) do
    local starts, crashes, count, first, kept = noted(notes[i])
    if fresh then
      if starts == 0 and first == '' then
        count, first = metered(key, fields_of(entry[2])), string.format('%.0f', now)
      end
      starts = starts + 1
      redis.call('HSET', attempts, entry[1],
        string.format('%d:%d:%s:%s:%s', starts, crashes, count, first, kept))
    end
    if i == 1 then progress = kept end
    entries[i] = {entry[1], starts, crashes, count, entry[2]}
  end
  local left = a.meter and redis.call('PTTL', a.meter.prefix .. key) or 0
  return {key, token, progress, entries, recalled(key), math.max(0, left)}
end

local turns = {}
local record = redis.call('HGET', consumers, a.consumer)
record = record and cmsgpack.unpack(record)
-- A copy that was held up on the way: a later call has been answered, and nobody waits for this one.
if record and a.call < record.call then return {'ok', now, 0, 0, {}, redis.call('GET', cursor)} end
if record and record.call == a.call then
  for _, grant in ipairs(record.grants) do
    if redis.call('HGET', leases, grant[1]) == grant[2] then
      local size = tonumber(string.match(grant[2], '%.(%d+)$'))
      local found = gather(grant[1], size)
      -- Nothing is left of it where its entries were deleted meanwhile; the next beat frees the lease.
      if #found > 0 then turns[#turns + 1] = granted(grant[1], grant[2], found, false) end
    end
  end
  redis.call('SET', heartbeat, now, 'PX', a.ttl_ms)
  return {'ok', now, 0, 0, turns, redis.call('GET', cursor) or '0-0'}
end

local reply = redis.pcall('XREADGROUP', 'GROUP', a.group, a.consumer, 'COUNT', a.count, 'STREAMS', stream, '>')
if reply and reply.err then
  if string.find(reply.err, 'NOGROUP') then return {'nogroup'} end
  return redis.error_reply(reply.err)
end
local read = reply and reply[1][2] or {}
local unseen = {}
for _, entry in ipairs(read) do
  local id, f = entry[1], fields_of(entry[2])
  local ours = f['for'] == a.group
  if (f['for'] and not ours) or (f.replayed and not a.replay and not ours) then
    unseen[#unseen + 1] = id
  elseif not is_utf8(f.key or '') then
    bury(id, entry[2])
    unseen[#unseen + 1] = id
  else
    local key = a.order == 'none' and id or f.key or ''
    just_read[id] = entry
    redis.call('ZADD', a.box .. key, 0, boxed(id))
    schedule(key, id, f.now)
  end
end
for i = 1, #unseen, 500 do
  redis.call('XACK', stream, a.group, unpack(unseen, i, math.min(i + 499, #unseen)))
end
if #read > 0 then redis.call('SET', cursor, read[#read][1]) end

-- Past all suspects that may not start now, however many: who is due behind them is not to wait for them.
local grants, suspects, offset, step = {}, a.suspects, 0, a.room
while #turns < a.room do
  local keys = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', offset, step)
  for _, key in ipairs(keys) do
    if #turns >= a.room then break end
    local head = redis.call('ZRANGE', a.box .. key, 0, 0)[1]
    local _, crashes = noted(head and redis.call('HGET', attempts, unboxed(head)))
    local suspect = crashes >= a.suspect_after
    if suspect and suspects == 0 then
      offset = offset + 1
    else
      -- A suspect is alone in its turn, and alone among suspects in its process, so that only the guilty dies again.
      local found, gone = gather(key, suspect and 1 or a.turn_max)
      if #found > 0 then
        if suspect then suspects = suspects - 1 end
        -- With the time: a call may run again, as new, after its consumer was swept, and must not revive an old token.
        local token = string.format('%s.%d.%s%06d%03d.%d', a.consumer, a.call, time[1], time[2], #turns + 1, #found)
        redis.call('HSET', leases, key, token)
        redis.call('ZREM', due, key)
        if hinted then redis.call('HDEL', hints, 'h:' .. key, 'n:' .. key, 'p:' .. key, 'w:' .. key) end
        turns[#turns + 1] = granted(key, token, found, true)
        grants[#grants + 1] = {key, token}
      elseif #gone == 0 or redis.call('EXISTS', a.box .. key) == 0 then
        redis.call('ZREM', due, key)
        if hinted then redis.call('HDEL', hints, 'h:' .. key, 'p:' .. key, 'w:' .. key) end
      end
    end
  end
  if #keys < step then break end
  step = 500
end

redis.call('HSET', consumers, a.consumer, cmsgpack.pack({call = a.call, grants = grants}))
redis.call('SET', heartbeat, now, 'PX', a.ttl_ms)
local upcoming = redis.call('ZRANGEBYSCORE', due, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {'ok', now, #read, upcoming[2] and tonumber(upcoming[2]) - now or -1, turns, redis.call('GET', cursor) or '0-0'}
