-- append: take what several requests bring, each all or nothing: dedupe mark, entry and waiting request as one act.
--
-- KEYS  1 digest (the key of our hashes)  2 waiting  3 groups, then whatever the arguments point to
-- ARGV  1 digest  2 how long a mark lives, ms  3 now_ms, by which the lines of the index were made
--       prefixes: 4 of doors  5 of bells  6 of the index
--       '1' or '': 7 whether it is to be durable  8 whether anybody waits
--       9 msgpack: streams, each {index in KEYS, name, max_len, whether streams.toml has a reader, whether it takes
--         nothing new now}
--       10 msgpack: requests, each a list of messages, each {index of its stream in ARGV 9, index of its mark in KEYS,
--         digest of its text, call, fields, nil or {ms, bell, ticket, group = {key, cursor, box, due, hints, bell}
--         of who answers, in KEYS, or nil}, nil or what its line of the index says}
-- Returns {'ok', of each request: the name of the stream that is full, or a list of
--         {'new' | 'duplicate' | 'reused', entry id}}
--       | {'digest', value}: hash with this key and call again | {'refused', why}; both: nothing was done.
--
-- A script, because "have we had it?" and "now we have" must be one act, and a reply may not overtake its waiter.
-- Safe to repeat: a mark with our own call in it says that this very call has been here before.
--
-- What can fail is looked at before the first write.  That is an XADD or a SET: a full Redis refuses it (it never refuses
-- DEL or HDEL) and, once it has passed, refuses none of the others.  So at OOM nothing is appended.
local head = {
  digest = ARGV[1], mark_ms = ARGV[2], now_ms = tonumber(ARGV[3]), door = ARGV[4], bells = ARGV[5], index = ARGV[6],
  durable = ARGV[7] ~= '', waits = ARGV[8] ~= '', streams = cmsgpack.unpack(ARGV[9]),
}
local digest = redis.call('GET', KEYS[1])
if digest and digest ~= head.digest then return {'digest', digest} end
-- with clock.lua

local function of_another_type(key) return {'refused', key .. ' is a ' .. redis.call('TYPE', key).ok} end
if head.waits and type(redis.pcall('HLEN', KEYS[2])) == 'table' then return of_another_type(KEYS[2]) end
for _, stream in ipairs(head.streams) do
  stream.key = KEYS[stream[1]]
  stream.length = redis.pcall('XLEN', stream.key)
  if type(stream.length) == 'table' then return of_another_type(stream.key) end
end

-- A full stream that no group reads, here or elsewhere, holds nothing unsettled: its oldest entries may go.
local function unread(stream)
  if stream[4] then return false end
  local registered = redis.pcall('HVALS', KEYS[3])
  if registered.err then return false end
  for _, group in ipairs(registered) do
    local sound, told = pcall(cjson.decode, group)
    if not sound or told.reads == stream[2] then return false end
  end
  return true
end

local STREAM, MARK, TEXT, CALL, FIELDS, WAIT, LINE = 1, 2, 3, 4, 5, 6, 7
local marks = {} -- by their index in KEYS: what they say; false for nothing
-- The entry, the text and the call of the message that left this mark; nil where there is none.
local function known(index)
  local mark = marks[index]
  if mark == nil then
    mark = redis.call('MGET', KEYS[index])[1] -- of another type than text it is as if it were not there
    marks[index] = mark
  end
  if mark then return string.match(mark, '^([^|]*)|([^|]*)|([^|]*)') end
end

-- What becomes of each message of a request; nothing is written yet.
local function judge(request)
  local verdicts, twins, more = {}, {}, {}
  for i, message in ipairs(request) do
    local twin = twins[message[MARK]]
    local entry, text, call = known(message[MARK])
    if entry then
      verdicts[i] = {call == message[CALL] and 'new' or text == message[TEXT] and 'duplicate' or 'reused', entry}
    elseif twin then
      verdicts[i] = {request[twin][TEXT] == message[TEXT] and 'duplicate' or 'reused', twin}
    else
      twins[message[MARK]] = i
      more[message[STREAM]] = (more[message[STREAM]] or 0) + 1
    end
  end
  for index, count in pairs(more) do
    local stream = head.streams[index]
    if stream[5] then return stream[2] end
    if stream.length + count > stream[3] then
      if stream.drops == nil then stream.drops = unread(stream) end
      if not stream.drops then return stream[2] end
    end
  end
  return verdicts
end

-- with boxes.lua
-- with index.lua

local function ring(bell, ...)
  redis.call('XADD', bell, 'MAXLEN', '~', 1000, '*', ...)
  redis.call('EXPIRE', bell, 3600)
end

-- The newest connection gets the answer; whoever waited for it until now is told.
local function wait(message, entry)
  local told = message[WAIT]
  local bell, older = string.match(redis.call('HGET', KEYS[2], entry) or '', '^%d+|([^|]*)|(.*)$')
  redis.call('HSET', KEYS[2], entry, string.format('%.0f|%s|%s', now() + told.ms, told.bell, told.ticket))
  if redis.call('PTTL', KEYS[2]) < told.ms then redis.call('PEXPIRE', KEYS[2], told.ms) end
  if older and older ~= told.ticket then
    ring(head.bells .. bell, 'ticket', older, 'entry', entry, 'replaced', '1')
  end
end

-- Is the reply to this entry still to come?  Not where it has a door, nor where it was settled without one.
local function unanswered(entry, group)
  if redis.call('EXISTS', head.door .. entry) == 1 then return false end
  if not group or redis.call('ZSCORE', KEYS[group.box], boxed(entry)) then return true end
  return boxed(entry) > boxed(redis.call('GET', KEYS[group.cursor]) or '0-0')
end

-- An entry that came without `now` sits in its box until its window ends, which is not for a request that waits.
-- What is not in the due list is in work; what waits for a retry keeps waiting, as take.lua has it.
local function hurry(entry, group)
  if not group or not redis.call('ZSCORE', KEYS[group.box], boxed(entry)) then return end
  if redis.call('HEXISTS', KEYS[group.hints], 'p:' .. group.key) == 1 then return end
  if redis.call('ZADD', KEYS[group.due], 'XX', 'LT', 'CH', string.format('%.0f', now()), group.key) == 1 then
    redis.call('HSET', KEYS[group.hints], 'h:' .. group.key, '1')
    ring(KEYS[group.bell], 'hurried', entry)
  end
end

-- A server that takes no writes now, in a failover for one, is the caller's to repeat, as for every script.
local function refusal(why)
  for _, passing in ipairs({'READONLY', 'NOREPLICAS', 'MISCONF'}) do
    if string.find(why, passing, 1, true) then return redis.error_reply(why) end
  end
  return {'refused', why}
end

-- For whoever asks later; where Redis refuses it, nobody is told less than before.
local function repeated(index)
  local kept, times = string.match(marks[index], '^([^|]*|[^|]*|[^|]*)|?(%d*)')
  marks[index] = string.format('%s|%d:%.0f', kept, (tonumber(times) or 0) + 1, now())
  redis.pcall('SET', KEYS[index], marks[index], 'KEEPTTL')
end

local listed -- the stream of which there are lines
local function list_new(entry, message, stream)
  local at_ms = ms_of_entry(entry)
  -- As its writer has it, who is quicker; a name that tells its time is left out only where it tells it true.
  if math.abs(at_ms - head.now_ms) <= ASKEW_MS / 2 then add_line(at_ms, entry, message[LINE])
  else list(head.digest, entry, message[FIELDS]) end
  listed = stream.key
end
local function done(reply)
  if listed then append_lines(head.index, listed) end
  return reply
end

local writing = false
local function may_write()
  if not writing then
    local reply = redis.pcall('SET', KEYS[1], head.digest)
    if reply.err then return refusal(reply.err) end
    writing = true
  end
end

-- Returns the entry, or nil and what the caller is to be told.
local function append(message)
  local refused = not digest and may_write() -- who comes after us is to find by what marks are hashed
  if refused then return nil, refused end
  local stream, entry = head.streams[message[STREAM]], nil
  if stream.drops then
    entry = redis.pcall('XADD', stream.key, 'MAXLEN', '~', stream[3], '*', unpack(message[FIELDS]))
  else
    entry = redis.pcall('XADD', stream.key, '*', unpack(message[FIELDS]))
  end
  if type(entry) == 'table' then return nil, writing and redis.error_reply(entry.err) or refusal(entry.err) end
  writing = true
  stream.length = stream.length + 1
  local mark = entry .. '|' .. message[TEXT] .. '|' .. message[CALL]
  redis.call('SET', KEYS[message[MARK]], mark, 'PX', head.mark_ms)
  marks[message[MARK]] = mark
  if message[LINE] then list_new(entry, message, stream) end
  return entry
end

local results = {'ok'}
for r, request in ipairs(cmsgpack.unpack(ARGV[10])) do
  local verdicts = judge(request)
  if type(verdicts) == 'table' then
    for i, message in ipairs(request) do
      local verdict = verdicts[i]
      if not verdict then
        local entry, refused = append(message)
        if refused then return done(refused) end
        verdict = {'new', entry}
        verdicts[i] = verdict
        if message[WAIT] then wait(message, verdict[2]) end
      elseif type(verdict[2]) == 'number' then
        verdict[2] = verdicts[verdict[2]][2]
      elseif verdict[1] == 'duplicate' and message[WAIT] and unanswered(verdict[2], message[WAIT].group) then
        local refused = may_write()
        if refused then return done(refused) end
        wait(message, verdict[2])
        hurry(verdict[2], message[WAIT].group)
      end
      if verdict[1] == 'duplicate' then repeated(message[MARK]) end
    end
  end
  results[r + 1] = verdicts
end
-- A WAIT behind us waits for our own writes only; what was here already may have reached no replica yet.
if head.durable then
  local refused = may_write()
  if refused then return done(refused) end
end
return done(results)
