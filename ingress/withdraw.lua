-- withdraw: a client that waited has hung up; its reply is left to the webhook.
--
-- KEYS  1 waiting
-- ARGV  1 entry id  2 ticket
-- Returns 1 where the registration was this ticket's, else 0: a newer connection waits for the same entry.
--
-- A script, because "is it mine?" and "away with it" must be one act.
local waiter = redis.call('HGET', KEYS[1], ARGV[1])
if not waiter or string.match(waiter, '^%d+|[^|]*|(.*)$') ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
