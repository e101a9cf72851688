-- release: egress asks whether a reply that a request waits for may go out by the webhook.
--
-- KEYS  1 door of the entry
-- Returns 0: send it, final; -1: it went through HTTP; else the milliseconds it is still to be held.
--
-- A script, because the deadline passing and the door closing must be one act: after 0 no claim succeeds.
local state, deadline = unpack(redis.call('HMGET', KEYS[1], 'state', 'deadline'))
if not state or state == 'webhook' then return 0 end
if state == 'http' then return -1 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(deadline) > now then return tonumber(deadline) - now end
redis.call('HDEL', KEYS[1], '') -- a full Redis refuses the first write of a script, not the later ones, and never HDEL
redis.call('HSET', KEYS[1], 'state', 'webhook')
return 0
