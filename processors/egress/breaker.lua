-- What all egress processes know together of one destination.
--
-- A script, because counting, opening and letting exactly one delivery through must be one act for every process.
-- Safe to repeat: a failure is a field named by its mark, so the same call counts once; a repeated "ask" by the
-- delivery that was let through lets it through again; everything else sets what it sets.
--
-- KEYS[1]  the breaker's hash; absent means closed, with nothing to remember
-- ARGV[1]  "ask" | "fail" | "succeed" | "gone"
-- ARGV[2]  who: the webhook-id of the delivery
--   ask:   ARGV[3] ms for which the one let through keeps the others out
--   fail:  ARGV[3] mark of the failure; ARGV[4] failures that open; ARGV[5] first wait in ms; ARGV[6] longest wait in ms
-- Returns  { state, ms still to wait, this opening's wait in ms, failures remembered }
--   state: "closed"; "open"; "gone" (410: until it is closed by hand); "probe" (only from ask: go, you are the one)
--
-- Fields: state ("open", "gone"), until and probe_until (Redis's clock, ms), wait (ms), probe (webhook-id), f:<mark>

local LIFETIME_MS = 86400000

local key, verb, who = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local b, failures = {}, 0
local flat = redis.call("HGETALL", key)
for i = 1, #flat, 2 do
  if string.sub(flat[i], 1, 2) == "f:" then failures = failures + 1 else b[flat[i]] = flat[i + 1] end
end
local state = b.state or "closed"
local wait = tonumber(b.wait) or 0

local function left(moment) return math.max(0, (tonumber(moment) or 0) - now) end

local function open(ms)
  redis.call("DEL", key)
  redis.call("HSET", key, "state", "open", "until", now + ms, "wait", ms)
  redis.call("PEXPIRE", key, LIFETIME_MS)
  return { "open", ms, ms, 0 }
end

if verb == "gone" then
  redis.call("DEL", key)
  redis.call("HSET", key, "state", "gone")
  redis.call("PEXPIRE", key, LIFETIME_MS)
  return { "gone", 0, 0, 0 }
end

if state == "gone" then
  -- As long as somebody asks, it stays; where nobody does for a day, the next 410 says it again.
  redis.call("PEXPIRE", key, LIFETIME_MS)
  return { "gone", 0, 0, 0 }
end

if verb == "succeed" then
  redis.call("DEL", key)
  return { "closed", 0, 0, 0 }
end

if verb == "fail" then
  redis.call("HDEL", key, "") -- a full Redis refuses the first write of a script, not the later ones, and never HDEL
  local first, longest = tonumber(ARGV[5]), tonumber(ARGV[6])
  if state == "open" then
    if b.probe == who then return open(math.min(wait * 2, longest)) end
    -- On its way since before it opened: says nothing new.
    return { "open", left(b["until"]), wait, failures }
  end
  if redis.call("HEXISTS", key, "f:" .. ARGV[3]) == 0 then failures = failures + 1 end
  if failures >= tonumber(ARGV[4]) then return open(math.min(first, longest)) end
  redis.call("HSET", key, "f:" .. ARGV[3], now)
  redis.call("PEXPIRE", key, LIFETIME_MS)
  return { "closed", 0, 0, failures }
end

-- ask
if state == "closed" then return { "closed", 0, 0, failures } end
if left(b["until"]) > 0 then return { "open", left(b["until"]), wait, failures } end
if b.probe and b.probe ~= who and left(b.probe_until) > 0 then return { "open", 0, wait, failures } end
redis.call("HDEL", key, "") -- as above: at a full Redis nothing would ever be let through, and nothing ever drain
redis.call("HSET", key, "probe", who, "probe_until", now + tonumber(ARGV[3]))
redis.call("PEXPIRE", key, LIFETIME_MS)
return { "probe", 0, wait, failures }
