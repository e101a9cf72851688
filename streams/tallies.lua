-- What turns count: summed over all turns of a call, then written once for each key.
-- `turn.tallies` is {{{key, seconds, …}, {field, n, …}}, …}: each field more by n in each key; `turn.distinct` is
-- {{key, seconds, value}, …}.  The seconds are how long a key lives that is not there yet.
local MOST_TALLIED = 1000 -- fields of a key; a name that comes when there are so many is counted as `other`
local sums, seen, lives, kinds = {}, {}, {}, {}

local function is_of(key, wanted)
  kinds[key] = kinds[key] or redis.call('TYPE', key).ok
  return kinds[key] == wanted or kinds[key] == 'none'
end

local function countable(turn)
  for _, one in ipairs(turn.tallies or {}) do
    for i = 1, #one[1], 2 do
      if not is_of(one[1][i], 'hash') then return false end
    end
  end
  for _, one in ipairs(turn.distinct or {}) do
    if not is_of(one[1], 'string') then return false end
  end
  return true
end

local function tally(turn)
  for _, one in ipairs(turn.tallies or {}) do
    for i = 1, #one[1], 2 do
      local key = one[1][i]
      local sum = sums[key] or {}
      sums[key], lives[key] = sum, one[1][i + 1]
      for f = 1, #one[2], 2 do sum[one[2][f]] = (sum[one[2][f]] or 0) + one[2][f + 1] end
    end
  end
  for _, one in ipairs(turn.distinct or {}) do
    seen[one[1]], lives[one[1]] = seen[one[1]] or {}, one[2]
    table.insert(seen[one[1]], one[3])
  end
end

-- Nothing here may raise: the turns have been committed.  What is no number is left as it is.
local function write_tallies()
  for key, sum in pairs(sums) do
    local free = MOST_TALLIED - redis.call('HLEN', key)
    for field, n in pairs(sum) do
      if free <= 0 and redis.call('HEXISTS', key, field) == 0 then field = 'other' end
      if redis.pcall('HINCRBY', key, field, string.format('%.0f', n)) == n then free = free - 1 end
    end
  end
  for key, values in pairs(seen) do
    for from = 1, #values, SLICE do
      redis.pcall('PFADD', key, unpack(values, from, math.min(from + SLICE - 1, #values)))
    end
  end
  for key, seconds in pairs(lives) do
    if kinds[key] == 'none' then redis.call('EXPIRE', key, seconds) end
  end
end
