-- mend: let Redis know how many entries a group has read, where it has read all that there are.
--
-- KEYS  1 stream
-- ARGV  1 group
-- Returns 1 where it had counted otherwise, else 0.
--
-- What is read comes into the append-only file and to replicas as XCLAIM, which sets the group's last id and not its
-- `entries-read`.  So after a restart or a failover its `lag` is too high, by all that was read since the file was last
-- rewritten, and stays so for good.
-- with named.lua
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return 0 end
local whole = named(redis.call('XINFO', 'STREAM', KEYS[1]))
local last, added = whole['last-generated-id'], whole['entries-added']
for _, row in ipairs(added and redis.call('XINFO', 'GROUPS', KEYS[1]) or {}) do
  local told = named(row)
  if told.name == ARGV[1] and told['last-delivered-id'] == last and told.lag and told.lag ~= 0 then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', added)
    return 1
  end
end
return 0
