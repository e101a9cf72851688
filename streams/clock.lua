-- Redis's clock in milliseconds, asked for once, and only where it is needed.
local time
local function now()
  time = time or redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
