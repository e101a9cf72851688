-- take: read new entries into their keys' boxes, then lease the keys whose time has come.
--
-- KEYS  1 stream  2 cursor  3 leases  4 due  5 attempts  6 hints  7 consumers  8 heartbeat  9 dead stream  10 erased
-- ARGV  1 consumer  2 call  3 room  4 count  5 suspects that may start
--       of the group: 6 name  7 heartbeat's ms  8 box prefix  9 order  10 debounce_ms  11 debounce_max_ms  12 turn_max
--       13 turn_chars  14 whether it sees replayed entries, 1 or 0  15 dead_max  16 suspect_after
--       of its meter: 17 prefix, '' for none  18 window_ms  19 which of the state kinds exempts a key, 0 for none
--       20 where turns may be superseded, the prefix of bells, else ''
--       21 how many state kinds it recalls  22… their prefixes, then the entry types that are not metered
--       Strings one by one, for of a call with one message to unpack them from one is a tenth.
-- Returns {'ok', now_ms, read, next_due_ms or -1, turns, cursor, suspects that are due and were not taken, 1 where the
--   stream may hold more}; a turn is {key, token, progress, ms until its meter's window ends, its state of each kind, then
--   of each entry id, starts, crashes, count or '', fields}: every table less is worth a command.
--   {'nogroup'} where the group is gone, or we know nothing of it: nothing was done.
--
-- A script, because reading and leasing as two acts break the order: A reads 1, B reads 2, B takes first.
-- The same call number again returns the same grants and reads nothing.
local a = {
  consumer = ARGV[1], call = tonumber(ARGV[2]), room = tonumber(ARGV[3]), count = tonumber(ARGV[4]),
  suspects = tonumber(ARGV[5]), group = ARGV[6], ttl_ms = ARGV[7], box = ARGV[8], order = ARGV[9],
  debounce_ms = tonumber(ARGV[10]), debounce_max_ms = tonumber(ARGV[11]), turn_max = tonumber(ARGV[12]),
  turn_chars = tonumber(ARGV[13]), replay = ARGV[14] == '1', dead_max = ARGV[15], suspect_after = tonumber(ARGV[16]),
  meter = ARGV[17], window_ms = ARGV[18], unless = tonumber(ARGV[19]), bells = ARGV[20],
  recall = tonumber(ARGV[21]),
}
local RECALL = 21 -- the arguments behind it are the prefixes of state
local stream, cursor, leases, due, attempts, hints, consumers, heartbeat, dead, erased =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_ms = string.format('%.0f', now)
local position = redis.call('GET', cursor)
if not position then return {'nogroup'} end

-- Mostly nobody has one or was erased, and then nobody's is looked for.
local neither = redis.call('EXISTS', hints, erased) == 0
local hinted
local function any_hints()
  if hinted == nil then hinted = not neither and redis.call('EXISTS', hints) == 1 end
  return hinted
end
local function hint_at(name, value)
  redis.call('HSET', hints, name, value)
  hinted = true
end

-- with slices.lua
-- A hash that has one value longer than hash-max-listpack-value is a table, whatever its size; else Redis would search
-- through a list for each of its fields.  Zeros before a number change neither a token nor a note.
local FEW, LONG = 8, string.rep('0', 65)
local LEAST = 10 -- entries that are read though enough are due: those may be suspects, which are passed over

local function ms_of(id) return tonumber(string.match(id, '^0*(%d+)%-')) end
-- with boxes.lua
-- with erased.lua
if neither then salt = false end
local TOLD = {key = true, type = true, ['for'] = true, replayed = true, now = true, origin = true}
-- What is asked of an entry here; the others are its readers'.
local function fields_of(flat)
  local fields, from = {}, 1
  -- As all of ours begin: made in their size.
  if flat[1] == 'key' and flat[3] == 'type' then fields, from = {key = flat[2], type = flat[4]}, 5 end
  for i = from, #flat, 2 do
    if TOLD[flat[i]] then fields[flat[i]] = flat[i + 1] end
  end
  return fields
end

-- with utf8.lua

-- A key that is no text names nobody; left in a box it would stop every worker that takes it.
local function bury(id, flat)
  if redis.call('TYPE', dead).ok == 'none' or redis.call('TYPE', dead).ok == 'stream' then
    redis.call('XADD', dead, 'MAXLEN', '~', a.dead_max, '*', 'origin', id, 'group', a.group, 'reason',
      'its key is not UTF-8', 'attempts', '0', 'first_ms', '', 'last_ms', now_ms,
      unpack(flat, 1, math.min(#flat, 2000)))
  end
end

local function body_of(flat)
  for i = 1, #flat, 2 do
    if flat[i] == 'body' then return flat[i + 1] end
  end
  return ''
end

-- When a key's turn may start: each message restarts the wait, which is bounded from the first.  Where the clock was set
-- back and ids lie ahead of it, it is bounded from now, and what `at` has become by then is not put off any more.
local function window(first_ms, last_ms, at)
  local ends = math.min(first_ms + a.debounce_max_ms, last_ms + a.debounce_ms, now + a.debounce_max_ms)
  return at and first_ms > now and math.min(ends, at) or ends
end

-- attempts: `starts:crashes:count:first_ms:progress` of an entry that has been started.
local function noted(note)
  if not note then return 0, 0, '', '', '' end
  local starts, crashes, count, first, progress = string.match(note, '^(%d+):(%d+):(%d*):(%d*):(.*)$')
  return tonumber(starts), tonumber(crashes), count, first, progress
end

local just_read = {} -- what this very call has read, which need not be read again
local hurries = {} -- of that, the ids of what waits for no window
local NONE = {}
local function of_box(key, limit)
  local ids = redis.call('ZRANGE', a.box .. key, 0, limit - 1)
  for i, member in ipairs(ids) do ids[i] = unboxed(member) end
  return ids
end

-- with metering.lua
-- with superseding.lua

-- A key in work keeps in hint `n` when its next turn may start, `at:first`; at 0 is at once, whatever comes later.
-- Behind it `:newer` where that supersedes the turn in work, for the next beat, should nobody hear the bell.
local function schedule_next(key, ids, token)
  local hint = any_hints() and redis.call('HGET', hints, 'n:' .. key)
  local at, first, newer = string.match(hint or '', '^(%d+):(%d+)(.*)$')
  for _, id in ipairs(ids) do
    local ms = ms_of(id)
    first = first or string.format('%.0f', ms)
    if hurries[id] or at == '0' then at = '0' else
      at = string.format('%.0f', window(tonumber(first), ms, tonumber(at)))
    end
  end
  if a.bells ~= '' and supersedes(key, ids, token) then newer = ':newer' end
  hint_at('n:' .. key, at .. ':' .. first .. (newer or ''))
end

-- When a key that is not in work is due, with what was brought; `at`: when it was until now, or nil.
local function due_at(key, ids, at)
  -- A key that waits for a retry keeps waiting: an earlier start would overtake what failed.
  if any_hints() and redis.call('HEXISTS', hints, 'p:' .. key) == 1 then return at end
  -- Where its turn was superseded, hint `h` says when the first of the messages came for which it was.
  local hint = any_hints() and redis.call('HGET', hints, 'h:' .. key) or ''
  local hurried, first = hint == '1', hint ~= '1' and tonumber(hint)
  for _, id in ipairs(ids) do
    local ms = ms_of(id)
    if hurries[id] then
      hint_at('h:' .. key, '1')
      hurried, at = true, math.min(at or now, now)
    elseif a.debounce_ms == 0 then
      at = at or math.min(ms, now)
    elseif not hurried then
      first = first or ms_of(redis.call('ZRANGE', a.box .. key, 0, 0)[1])
      at = window(first, ms, at)
    end
  end
  return at
end

local function box(key, ids)
  if #ids == 1 then return redis.call('ZADD', a.box .. key, 0, boxed(ids[1])) end
  local members = {}
  for i, id in ipairs(ids) do members[2 * i - 1], members[2 * i] = 0, boxed(id) end
  tell(members, 'ZADD', a.box .. key)
end

local function may_start(ids)
  if a.debounce_ms == 0 then return true end
  for _, id in ipairs(ids) do
    if hurries[id] then return true end
  end
end

-- Into the boxes, and due when their time comes.  Returns the keys that may start here and now, those of which nothing
-- was known, where nobody else is due; and whether any key is due at another time than before.
local function lay(names, brought, anybody_waits, nobody_due)
  local leased, dues, fresh = answers(names, 'HMGET', leases), {}, {}
  local scores = anybody_waits and answers(names, 'ZMSCORE', due) or {}
  for i, key in ipairs(names) do
    local ids = brought[key]
    box(key, ids)
    if leased[i] then
      schedule_next(key, ids, leased[i])
    elseif nobody_due and not scores[i] and #fresh < a.room and may_start(ids) then
      fresh[#fresh + 1] = key
    else
      local was = tonumber(scores[i] or nil)
      local at = due_at(key, ids, was)
      if at ~= was then
        dues[#dues + 1] = string.format('%.0f', at)
        dues[#dues + 1] = key
      end
    end
  end
  tell(dues, 'ZADD', due)
  return fresh, #dues > 0
end

-- The entries of a turn, of these ids the oldest; those that are gone from the stream are acknowledged.
local function gather(key, ids, limit)
  if (limit == 1 or #ids == 1) and just_read[ids[1]] then return {just_read[ids[1]]}, NONE end
  local entries, gone, bytes, chars = {}, {}, 0, nil
  for i = 1, math.min(#ids, limit) do
    local id = ids[i]
    local found = just_read[id] or redis.call('XRANGE', stream, id, id)[1]
    -- Of a group without order an erase finds what was read before only as it comes to it.
    if not found or a.order == 'none' and any_erased() and was_erased(fields_of(found[2]).key, stream, id) then
      gone[#gone + 1] = id
      redis.call('ZREM', a.box .. key, boxed(id))
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

local turns = {}
-- A turn as it is returned; `started` gets the notes of a fresh one.
local function granted(key, token, found, notes, state, started)
  local turn = {key, token, '', 0, unpack(state, 1, a.recall)}
  for i, entry in ipairs(found) do
    local id, note = entry[1], notes[entry[1]]
    local starts, crashes, count, first, kept = noted(note)
    if started then
      if starts == 0 and first == '' then
        count, first = metered(key, entry.fields or fields_of(entry[2]), state), now_ms
      end
      starts = starts + 1
      local begun = note and starts .. ':' .. crashes .. ':' or '1:0:'
      started[#started + 1] = id
      started[#started + 1] = begun .. count .. ':' .. first .. ':' .. kept
    end
    if i == 1 then turn[3] = kept end
    local at = #turn
    turn[at + 1], turn[at + 2], turn[at + 3], turn[at + 4], turn[at + 5] = id, starts, crashes, count, entry[2]
  end
  if a.meter ~= '' then turn[4] = math.max(0, redis.call('PTTL', a.meter .. key)) end
  turns[#turns + 1] = turn
end

local function notes_of(ids)
  local notes, told = {}, answers(ids, 'HMGET', attempts)
  for i, id in ipairs(ids) do notes[id] = told[i] end
  return notes
end

-- The state of each key; what of it is of another type than text is as if it were not there.
local function states_of(keys)
  if a.recall == 0 then return NONE end
  local names, states = {}, {}
  for _, key in ipairs(keys) do
    for kind = RECALL + 1, RECALL + a.recall do names[#names + 1] = ARGV[kind] .. key end
  end
  local values = answers(names, 'MGET')
  for i = 1, #keys do states[i] = {unpack(values, (i - 1) * a.recall + 1, i * a.recall)} end
  return states
end

-- A record: the consumer's last call, when a take last said that it lives, and from there on what that call granted.
local record = redis.call('HGET', consumers, a.consumer) or ''
local last, alive_ms, from = string.match(record, '^(%-?%d+) (%d+) ()')
last = tonumber(last)
-- A copy that was held up on the way: a later call has been answered, and nobody waits for this one.
if last and a.call < last then return {'ok', now, 0, 0, {}, position, 0, 1} end
if last == a.call then
  -- A full Redis refuses the first write of a script, not the later ones, and never HDEL.
  redis.call('HDEL', hints, '')
  for _, grant in ipairs(cmsgpack.unpack(string.sub(record, from))) do
    if redis.call('HGET', leases, grant[1]) == grant[2] then
      local ids = of_box(grant[1], tonumber(string.match(grant[2], '%.(%d+)$')))
      local found = gather(grant[1], ids, #ids)
      -- Nothing is left of it where its entries were deleted meanwhile; the next beat frees the lease.
      if #found > 0 then granted(grant[1], grant[2], found, notes_of(ids), states_of({grant[1]})[1] or NONE) end
    end
  end
  return {'ok', now, 0, 0, turns, position, 0, 1}
end

-- Reading ahead lets what a person says gather into one turn; where a turn is one entry it would only be read twice.
local count, earliest = a.count, tonumber(redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2])
local somebody_due = earliest and earliest <= now
if a.turn_max == 1 then
  local ready = somebody_due and redis.call('ZCOUNT', due, '-inf', now) or 0
  count = math.min(count, math.max(LEAST, a.room - ready))
end
-- The first write, which a full Redis does not refuse; nor the later ones, then.
local reply = redis.pcall('XREADGROUP', 'GROUP', a.group, a.consumer, 'COUNT', count, 'STREAMS', stream, '>')
if reply and reply.err then
  if string.find(reply.err, 'NOGROUP') then return {'nogroup'} end
  return redis.error_reply(reply.err)
end
local read = reply and reply[1][2] or {}
local unseen, names, brought = {}, {}, {}
for _, entry in ipairs(read) do
  local id, f = entry[1], fields_of(entry[2])
  local ours = f['for'] == a.group
  if (f['for'] and not ours) or (f.replayed and not a.replay and not ours) or was_erased(f.key, stream, id) then
    unseen[#unseen + 1] = id
  elseif f.key and string.find(f.key, '[\128-\255]') and not is_utf8(f.key) then
    bury(id, entry[2])
    unseen[#unseen + 1] = id
  else
    local key = a.order == 'none' and id or f.key or ''
    just_read[id], entry.fields = entry, f
    if brought[key] then table.insert(brought[key], id) else
      brought[key], names[#names + 1] = {id}, key -- made in its size, for most have one
    end
    if f.now then hurries[id] = true end
  end
end
tell(unseen, 'XACK', stream, a.group)
local fresh, laid = lay(names, brought, earliest, not somebody_due)
if #read > 0 then redis.call('SET', cursor, read[#read][1]) end
position = #read > 0 and read[#read][1] or position

local grants, suspects = {}, a.suspects
local begin = string.format('%s.%d.%s%06d', a.consumer, a.call, time[1], time[2])
-- Lease these keys, which are due, or of which all that is in their boxes was brought just now.
-- Returns how many of them stay due: suspects that may not start now.
local function grant(keys, known)
  local boxes, ids, stay = {}, {}, 0
  for i, key in ipairs(keys) do
    boxes[i] = known and known[key] or of_box(key, a.turn_max)
    for _, id in ipairs(boxes[i]) do ids[#ids + 1] = id end
  end
  -- What was brought just now has never been started.
  local notes, states = known and {} or notes_of(ids), states_of(keys)
  local leased, started, freed, dropped = {}, {}, {}, {}
  for i, key in ipairs(keys) do
    local _, crashes = noted(notes[boxes[i][1] or ''])
    local suspect = crashes >= a.suspect_after
    if suspect and suspects == 0 then
      if known then redis.call('ZADD', due, now_ms, key) end
      stay = stay + 1
    else
      -- A suspect is alone in its turn, and alone among suspects in its process, so that only the guilty dies again.
      local found, gone = gather(key, boxes[i], suspect and 1 or a.turn_max)
      if #found > 0 then
        if suspect then suspects = suspects - 1 end
        -- With the time: a call may run again, as new, after its consumer was swept, and must not revive an old token.
        local long = #leased == 0 and #keys > FEW and LONG or ''
        local token = begin .. long .. string.format('%03d.%d', #turns + 1, #found)
        leased[#leased + 1] = key
        leased[#leased + 1] = token
        granted(key, token, found, notes, states[i] or NONE, started)
        grants[#grants + 1] = {key, token}
      end
      -- A key that was not due has no hint either.
      if not known and (#found > 0 or #gone == 0 or redis.call('EXISTS', a.box .. key) == 0) then
        freed[#freed + 1] = key
        for _, hint in ipairs(any_hints() and {'h:', 'p:', 'w:', #found > 0 and 'n:' or nil} or {}) do
          dropped[#dropped + 1] = hint .. key
        end
      end
    end
  end
  if #started > 2 * FEW then started[2] = LONG .. started[2] end
  tell(leased, 'HSET', leases)
  tell(started, 'HSET', attempts)
  tell(freed, 'ZREM', due)
  tell(dropped, 'HDEL', hints)
  return stay
end

-- Past all suspects that may not start now, however many: who is due behind them is not to wait for them.
if #fresh > 0 and grant(fresh, brought) > 0 then laid = true end
local offset, step, next_due_ms = 0, a.room, -1
if not (laid or somebody_due) then next_due_ms = earliest and earliest - now or -1 end
while (laid or somebody_due) and #turns < a.room and next_due_ms < 0 do
  local keys = {}
  local page = redis.call('ZRANGE', due, offset, offset + step, 'WITHSCORES')
  for i = 1, #page, 2 do
    local ms = tonumber(page[i + 1]) - now
    if ms > 0 then
      next_due_ms = ms
      break
    end
    keys[#keys + 1] = page[i]
  end
  local at = 1
  while at <= #keys and #turns < a.room do
    local some = {}
    for i = at, math.min(at + a.room - #turns - 1, #keys) do some[#some + 1] = keys[i] end
    offset, at = offset + grant(some), at + #some
  end
  if #page <= 2 * step then break end
  step = SLICE
end

if not alive_ms or math.abs(now - tonumber(alive_ms)) > a.ttl_ms / 4 then
  redis.call('SET', heartbeat, now, 'PX', a.ttl_ms)
  alive_ms = now_ms
end
redis.call('HSET', consumers, a.consumer, ARGV[2] .. ' ' .. alive_ms .. ' ' .. cmsgpack.pack(grants))
return {'ok', now, #read, next_due_ms, turns, position, offset, #read == count and 1 or 0}
