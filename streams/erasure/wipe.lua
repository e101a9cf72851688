-- wipe: delete entries of a stream, for every group that reads it.
--
-- KEYS  1 stream, then leases, due, attempts and hints of each group
-- ARGV  1 msgpack: {ids = {id, …}, groups = {{name, box = prefix}, …} in the order of KEYS}
-- Returns {how many were there, how many of them a group without order had in work}.
--
-- A script, because an entry must leave pending list, box, lease and stream as one act.  A group without order has each
-- of them as a key of its own; where a group has one, erase.lua has taken the person away already.
local a, in_work = cmsgpack.unpack(ARGV[1]), 0
-- with slices.lua
for i, group in ipairs(a.groups) do
  local at = 4 * i - 2
  local boxes, hinted = {}, {}
  for _, id in ipairs(a.ids) do
    boxes[#boxes + 1] = group.box .. id
    for _, hint in ipairs({'h:', 'n:', 'p:', 'w:'}) do hinted[#hinted + 1] = hint .. id end
  end
  tell(a.ids, 'XACK', KEYS[1], group.name)
  tell(boxes, 'UNLINK')
  in_work = in_work + tell(a.ids, 'HDEL', KEYS[at])
  tell(a.ids, 'ZREM', KEYS[at + 1])
  tell(a.ids, 'HDEL', KEYS[at + 2])
  tell(hinted, 'HDEL', KEYS[at + 3])
end
return {tell(a.ids, 'XDEL', KEYS[1]), in_work}
