-- Atomically admits a request under all counters or under none.
--
-- KEYS: the counters, each a sorted set of admissions by their time in microseconds.
-- ARGV: the cost in requests; then for each counter its limit and its window in microseconds.
-- Returns 0, or the microseconds until there is room.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local hits = tonumber(ARGV[1])
local wait = 0
for i, key in ipairs(KEYS) do
    local limit, window = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    -- An admission exactly as old as the window still counts.
    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%d', now - window))
    local over = redis.call('ZCARD', key) + hits - limit
    if over > 0 then
        -- There is room once the oldest `over` admissions have expired; a request above the limit never fits.
        local last = redis.call('ZRANGE', key, over - 1, over - 1, 'WITHSCORES')[2]
        wait = math.max(wait, (last and tonumber(last) or now) + window + 1 - now)
    end
end
if wait == 0 then
    for i, key in ipairs(KEYS) do
        for hit = 1, hits do
            redis.call('ZADD', key, string.format('%d', now), string.format('%d:%d', now, redis.call('ZCARD', key)))
        end
        redis.call('PEXPIRE', key, math.ceil(ARGV[2 * i + 1] / 1000) + 1000)
    end
end
return wait
