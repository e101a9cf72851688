-- settle: end turns.  Each is committed (acknowledged, with its effects), buried (the same, and into the dead letters)
-- or parked (given back for later), all or nothing, only by the holder of its lease.
--
-- KEYS  1 stream  2 leases  3 due  4 attempts  5 hints  6 waiting  7 dead stream  8 erased  9 journal, then every state
--         key and output stream the effects name (declared, so that a cluster slot under way answers TRYAGAIN before
--         anything is done)
-- ARGV  of the group: 1 name  2 box prefix  3 its entries' version  4 '1' where it has no order, else ''  5 dead_max
--       where it replies to requests that wait on the stream (6 '1', else ''): 7 keep_ms  8 prefix of doors  9 of bells
--       10 msgpack: {counts, more}: five numbers for each turn, of its ids, writes, outputs and answers (to a request:
--         one or none), and the bytes of its line in the journal; and {{turn's number, what few have}, …}: bury?,
--         delay_ms?, at_door?, uncount?, progress?, unless?, superseded?, replayed?, tallies?, distinct? (the last two
--         as tallies.lua says)
--       11 the lines of all turns for the journal, or ''
--       12… turn by turn its key, token and ids; of each write the key, its ms to live (0: for ever, -1: it is deleted)
--         and the value; of each output the stream, '1' where it is the answer, and its entry's key, type, body, trace;
--         of the answer the status and the body.  Strings one by one: what comes packed is made into text twice.
-- Returns for each turn, one after another: 1, ms until its key is due again or -1; or 0, -1: refused, the lease is
--   another's by now (or what it answers was erased); or
--   2, -1: the lease is ours, but a key that it names is of another type (or Redis refuses an effect after all); or
--   3, -1: the lease is ours, but the key `unless` is there; of both nothing was done.
--
-- Everything that can fail is looked at before the first write, for Lua does not roll back.  The first write is ZREM or
-- HDEL, which a full Redis never refuses; what all turns have in common is written last, with one command for all.
local a = {
  group = ARGV[1], box = ARGV[2], version = ARGV[3], unordered = ARGV[4] ~= '', dead_max = ARGV[5],
  answers = ARGV[6] ~= '', keep_ms = ARGV[7], door = ARGV[8], bell = ARGV[9],
}
local TURNS = 12 -- from here on they are told
local counts, more = unpack(cmsgpack.unpack(ARGV[10]))
local stream, leases, due, attempts, hints, waiting, dead, erased, journal =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
-- with clock.lua
-- Mostly nobody waits or has a hint, and then nobody's is looked for.
local either = redis.call('EXISTS', waiting, hints) > 0
local someone_waits = either and a.answers and redis.call('EXISTS', waiting) == 1
local hinted = either and redis.call('EXISTS', hints) == 1
local WRITE, OUTPUT, ANSWER = 3, 6, 2 -- arguments of one
local MOST_FIELDS = 2000 -- of an entry; Lua cannot hand many thousands of arguments to a command

-- with slices.lua
-- with boxes.lua
-- with erased.lua
-- with tallies.lua

local is_stream = {}
local function appendable(key)
  if is_stream[key] == nil then
    local kind = redis.call('TYPE', key).ok
    is_stream[key] = kind == 'stream' or kind == 'none'
  end
  return is_stream[key]
end

local function possible(turn)
  if turn.bury and not appendable(dead) then return false end
  for at = turn.outputs, turn.answer - 1, OUTPUT do
    if not appendable(ARGV[at]) then return false end
  end
  return countable(turn)
end

-- Of the requests that wait for this turn, the last one still waiting gets the text; the others are told who did, and so
-- is whoever repeats a message of the turn that nobody waited for.
local function answer(turn)
  if not (someone_waits and turn.answers) then return nil end
  local open, winner = {}, nil
  for i, value in ipairs(redis.call('HMGET', waiting, unpack(turn.ids))) do
    local deadline, bell, ticket = string.match(value or '', '^(%d+)|([^|]*)|(.*)$')
    if deadline and tonumber(deadline) > now() then
      winner = {entry = turn.ids[i], deadline = deadline}
      open[#open + 1] = {entry = turn.ids[i], bell = bell, ticket = ticket}
    end
  end
  if not winner then return nil end
  local has_text = false
  for at = turn.outputs, turn.answer - 1, OUTPUT do has_text = has_text or ARGV[at + 1] == '1' end
  for _, id in ipairs(turn.ids) do
    local door = a.door .. id
    redis.call('DEL', door)
    if id == winner.entry then
      redis.call('HSET', door, 'key', turn.key, 'state', has_text and 'open' or 'http', 'deadline', winner.deadline,
        'status', ARGV[turn.answer], 'answer', ARGV[turn.answer + 1], 'others', cmsgpack.pack(open))
    else
      redis.call('HSET', door, 'key', turn.key, 'into', winner.entry)
    end
    redis.call('PEXPIRE', door, a.keep_ms)
  end
  for _, waiter in ipairs(open) do
    redis.call('XADD', a.bell .. waiter.bell, 'MAXLEN', '~', 1000, '*', 'ticket', waiter.ticket, 'entry', waiter.entry)
    redis.call('EXPIRE', a.bell .. waiter.bell, 3600)
  end
  return winner.entry
end

local function bury(turn)
  for _, id in ipairs(turn.ids) do
    local found = redis.call('XRANGE', stream, id, id)[1]
    if found then
      local note = redis.call('HGET', attempts, id) or '0:0:::'
      local starts, first = string.match(note, '^(%d+):%d+:%d*:(%d*):')
      redis.call('XADD', dead, 'MAXLEN', '~', a.dead_max, '*', 'origin', id, 'group', a.group, 'reason', turn.bury,
        'attempts', starts, 'first_ms', first, 'last_ms', string.format('%.0f', now()),
        unpack(found[2], 1, math.min(#found[2], MOST_FIELDS)))
    end
  end
end

-- An attempt that says nothing about the turn is taken back; progress is kept for the next one.
local function annotate(turn)
  for _, id in ipairs(turn.uncount or {}) do
    local starts, rest = string.match(redis.call('HGET', attempts, id) or '', '^(%d+)(:.*)$')
    if starts then redis.call('HSET', attempts, id, math.max(0, tonumber(starts) - 1) .. rest) end
  end
  if turn.progress then
    local head = redis.call('ZRANGE', a.box .. turn.key, 0, 0)[1]
    local note = head and redis.call('HGET', attempts, unboxed(head))
    local kept = note and string.match(note, '^(%d+:%d+:%d*:%d*:)')
    if kept then redis.call('HSET', attempts, unboxed(head), kept .. turn.progress) end
  end
end

local function append(at, turn, door)
  local more = {}
  if turn.replayed then more = {'replayed', '1'} end
  if door and ARGV[at + 1] == '1' then more[#more + 1], more[#more + 2] = 'door', door end
  redis.call('XADD', ARGV[at], '*', 'key', ARGV[at + 2], 'type', ARGV[at + 3], 'body', ARGV[at + 4], 'v', a.version,
    'trace', ARGV[at + 5], unpack(more))
end

local function carry_out(turn)
  annotate(turn)
  if turn.bury then bury(turn) end
  if #turn.ids == 0 then return end
  local door = answer(turn)
  for at = turn.writes, turn.outputs - 1, WRITE do
    local ms = ARGV[at + 1]
    if ms == '-1' then redis.call('DEL', ARGV[at])
    elseif ms == '0' then redis.call('SET', ARGV[at], ARGV[at + 2])
    else redis.call('SET', ARGV[at], ARGV[at + 2], 'PX', ms) end
  end
  for at = turn.outputs, turn.answer - 1, OUTPUT do append(at, turn, door) end
  tally(turn)
end

-- Out of the box, first of all: an entry that is not in it was ended before.  False: then nothing was done.
local function unbox(turn)
  local box, ids, gone = a.box .. turn.key, turn.ids, {}
  if #ids == 1 then return redis.call('ZREM', box, boxed(ids[1])) == 1 end
  -- A full Redis refuses the first write of a script, not the later ones, and never HDEL.
  if #ids == 0 then redis.call('HDEL', hints, '') end
  for i, id in ipairs(ids) do
    gone[i] = boxed(id)
    if not redis.call('ZSCORE', box, gone[i]) then return false end
  end
  return tell(gone, 'ZREM', box) == #gone
end

-- Should Redis refuse an effect after all, what is not done stays: the lease with its box, for another end.
local function commit(turn)
  local sound = pcall(carry_out, turn)
  for _, id in ipairs(sound and {} or turn.ids) do redis.call('ZADD', a.box .. turn.key, 0, boxed(id)) end
  return sound
end

-- Does a request wait for one of these?
local function waited_for(ids)
  for _, value in ipairs(someone_waits and redis.call('HMGET', waiting, unpack(ids)) or {}) do
    if tonumber(string.match(value or '0', '^%d+')) > now() then return true end
  end
end

-- What is left in the box becomes due: after the delay, at the end of its window, or now.
local function due_at(turn)
  local key, hint, woken = turn.key, nil, nil
  if hinted then
    hint, woken = unpack(redis.call('HMGET', hints, 'n:' .. key, 'w:' .. key))
    redis.call('HDEL', hints, 'n:' .. key, 'w:' .. key)
  end
  if redis.call('EXISTS', a.box .. key) == 0 then return nil end
  if turn.delay_ms and not (woken and turn.at_door) then
    redis.call('HSET', hints, 'p:' .. key, turn.at_door and 'door' or '1')
    return now() + turn.delay_ms
  elseif hint and not turn.delay_ms then
    local at, first = string.match(hint, '^(%d+):(%d+)')
    if turn.superseded and waited_for(turn.uncount) then at = '0' end
    -- A request waits for it: what comes later is not to restart its window.
    if at == '0' then redis.call('HSET', hints, 'h:' .. key, '1')
    elseif turn.superseded then redis.call('HSET', hints, 'h:' .. key, first) end
    return math.max(now(), tonumber(at))
  end
  return now()
end

-- An erase takes the leases of its person away.  In a group without order a lease says not whose it is; the entry does.
local function erased_meanwhile(turn)
  local found = a.unordered and any_erased() and redis.call('XRANGE', stream, turn.key, turn.key)[1]
  for i = 1, found and #found[2] or 0, 2 do
    if found[2][i] == 'key' and was_erased(found[2][i + 1], stream, turn.key) then return true end
  end
  return false
end

local turns, keys, at = {}, {}, TURNS
for i = 1, #counts, 5 do
  local first, ids = at + 2, {}
  local writes = first + counts[i]
  local outputs = writes + WRITE * counts[i + 1]
  local answer = outputs + OUTPUT * counts[i + 2]
  for id = first, writes - 1 do ids[id - at - 1] = ARGV[id] end
  keys[#keys + 1] = ARGV[at]
  turns[#turns + 1] = {
    key = ARGV[at], token = ARGV[at + 1], ids = ids, writes = writes, outputs = outputs, answer = answer,
    answers = counts[i + 3] > 0, told = counts[i + 4],
  }
  at = answer + ANSWER * counts[i + 3]
end
for _, one in ipairs(more) do
  for name, value in pairs(one[2]) do turns[one[1]][name] = value end
end

-- Why a turn is not ended; nil where it was.
local function refused(turn, holder)
  if holder ~= turn.token or erased_meanwhile(turn) then return 0 end
  if turn.unless and redis.call('EXISTS', turn.unless) == 1 then return 3 end
  if not possible(turn) then return 2 end
  if not unbox(turn) then return 0 end
  if not commit(turn) then return 2 end
end

local held, why = redis.call('HMGET', leases, unpack(keys)), {}
local ended, over, boxes, dues = {}, {}, {}, {}
for i, turn in ipairs(turns) do
  why[i] = refused(turn, held[i])
  if not why[i] then
    for _, id in ipairs(turn.ids) do ended[#ended + 1] = id end
    over[#over + 1], boxes[#boxes + 1] = turn.key, a.box .. turn.key
  end
end
-- Mostly nothing is left in any.
local any_left = hinted or tell(boxes, 'EXISTS') > 0
local results = {}
for i, turn in ipairs(turns) do
  local at = any_left and not why[i] and due_at(turn)
  if at then
    dues[#dues + 1] = string.format('%.0f', at)
    dues[#dues + 1] = turn.key
  end
  results[2 * i - 1], results[2 * i] = why[i] or 1, at and at - now() or -1
end
tell(ended, 'XACK', stream, a.group)
tell(ended, 'HDEL', attempts)
if someone_waits then tell(ended, 'HDEL', waiting) end
tell(over, 'HDEL', leases)
tell(dues, 'ZADD', due)
write_tallies()
-- Behind all that it tells of; a journal that cannot be written (a key of another type) is no turn's fault.
local told = ARGV[11]
if #over < #turns and told ~= '' then
  local lines, at = {}, 0
  for i, turn in ipairs(turns) do
    if not why[i] then lines[#lines + 1] = string.sub(told, at + 1, at + turn.told) end
    at = at + turn.told
  end
  told = table.concat(lines)
end
if told ~= '' then redis.pcall('XADD', journal, '*', 'turns', told) end
return results
