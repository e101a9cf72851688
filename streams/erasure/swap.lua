-- swap: let a stream that was written anew (copy.lua) take the place of the old one, with its groups as they are.
--
-- KEYS  1 stream  2 where it was written anew
-- ARGV  1 entries that may still be missing there
-- Returns 'more': too many are, and nothing was done | 'changed': the old one has lost entries since they were carried
--   over, and is to be written anew once more | 'done'.
--
-- Why at all: XDEL only marks an entry; its bytes stay in memory, in every dump and in every append-only file until all
-- that lies beside it in the same node (100 entries) has gone too.
-- A script, because whatever comes in between, an entry, an acknowledgement, a deletion, would be lost, or come again.
-- What is on the old stream and on the new one is the same if they are equally many: the new one has nothing else.
local old, new, most = KEYS[1], KEYS[2], tonumber(ARGV[1])
local MOST_FIELDS = 7000 -- Lua cannot hand many thousands of arguments to a command

-- with named.lua
local told = named(redis.call('XINFO', 'STREAM', old))

local reached = redis.call('XREVRANGE', new, '+', '-', 'COUNT', 1)[1]
local missing = redis.call('XRANGE', old, reached and '(' .. reached[1] or '-', '+', 'COUNT', most + 1)
if #missing > most then return 'more' end
for _, row in ipairs(missing) do
  if #row[2] > MOST_FIELDS then return 'more' end -- where copy.lua says that it cannot
end
local first = redis.call('XRANGE', old, '-', '+', 'COUNT', 1)[1]

-- A full Redis refuses the first write of a script, not the later ones, and never XTRIM or DEL.
if first then redis.call('XTRIM', new, 'MINID', first[1]) else redis.call('DEL', new) end
if redis.call('XLEN', new) + #missing ~= redis.call('XLEN', old) then return 'changed' end
for _, row in ipairs(missing) do redis.call('XADD', new, row[1], unpack(row[2])) end
-- Also of a stream that is empty by now its last id has to be known, for what comes is to be numbered behind it.
redis.call('XGROUP', 'CREATE', new, 'anew', '0-0', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', new, 'anew')
redis.call('XSETID', new, told['last-generated-id'])

local function carry(group)
  redis.call('XGROUP', 'CREATE', new, group.name, group['last-delivered-id'])
  local after = '-'
  while true do
    local pending = redis.call('XPENDING', old, group.name, after, '+', 500)
    for _, row in ipairs(pending) do
      local id, consumer, idle, times = unpack(row)
      redis.call('XCLAIM', new, group.name, consumer, 0, id, 'IDLE', idle, 'RETRYCOUNT', times, 'FORCE', 'JUSTID')
      after = '(' .. id
    end
    if #pending < 500 then return end
  end
end
for _, row in ipairs(redis.call('XINFO', 'GROUPS', old)) do
  carry(named(row))
end
redis.call('PERSIST', new)
redis.call('UNLINK', old)
redis.call('RENAME', new, old)
return 'done'
