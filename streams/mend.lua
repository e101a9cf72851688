-- mend: let Redis know how many entries each group has read, of those that have read all that there are.
--
-- KEYS  1 stream
-- ARGV  the groups
-- Returns how many of them it had counted otherwise.
--
-- What is read comes into the append-only file and to replicas as XCLAIM, which sets the group's last id and not its
-- `entries-read`.  So after a restart or a failover its `lag` is too high, by all that was read since the file was last
-- rewritten, and stays so for good.
-- with named.lua
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return 0 end
local ours, mended = {}, 0
for _, group in ipairs(ARGV) do ours[group] = true end
local whole = named(redis.call('XINFO', 'STREAM', KEYS[1]))
local last, added = whole['last-generated-id'], whole['entries-added']
for _, row in ipairs(added and redis.call('XINFO', 'GROUPS', KEYS[1]) or {}) do
  local told = named(row)
  if ours[told.name] and told['last-delivered-id'] == last and told.lag and told.lag ~= 0 then
    redis.call('XGROUP', 'SETID', KEYS[1], told.name, last, 'ENTRIESREAD', added)
    mended = mended + 1
  end
end
return mended
