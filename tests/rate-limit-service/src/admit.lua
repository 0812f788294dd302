-- Admits a request under all of the counts, or under none, in one step: Redis runs nothing else meanwhile.
--
-- KEYS: the counts, each a sorted set of admissions by their time in microseconds.
-- ARGV: how many requests it counts as; then for each count its limit and its window in microseconds.
-- Returns 0, or after how many microseconds there is room.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local hits = tonumber(ARGV[1])
local wait = 0
for i, key in ipairs(KEYS) do
    local limit, window = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    -- What is as old as the window still counts.
    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%d', now - window))
    local over = redis.call('ZCARD', key) + hits - limit
    if over > 0 then
        -- There is room once so many of the oldest are gone; what costs more than the limit waits for nothing.
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
