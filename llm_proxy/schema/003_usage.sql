-- Roll-ups of `requests`: by day, by hour, and by user and day. They are kept by triggers, in the transaction
-- that wrote the rows, from the rows really written: a batch written twice counts once, an estimate made exact
-- moves the sums by the difference. Dropping a partition leaves them. '' stands for "none" in a dimension.

CREATE TABLE usage_daily (
    day               date    NOT NULL,
    key_id            text    NOT NULL,
    tenant            text    NOT NULL,
    agent             text    NOT NULL,
    model_group       text    NOT NULL,
    provider          text    NOT NULL,
    requests          bigint  NOT NULL DEFAULT 0,
    succeeded         bigint  NOT NULL DEFAULT 0,
    cache_hits        bigint  NOT NULL DEFAULT 0,
    prompt_tokens     bigint  NOT NULL DEFAULT 0,
    completion_tokens bigint  NOT NULL DEFAULT 0,
    cached_tokens     bigint  NOT NULL DEFAULT 0,
    reasoning_tokens  bigint  NOT NULL DEFAULT 0,
    cost_usd          numeric(24, 9) NOT NULL DEFAULT 0,
    unpriced          bigint  NOT NULL DEFAULT 0,   -- requests whose cost is not known
    unmetered         bigint  NOT NULL DEFAULT 0,   -- requests whose tokens are not known
    estimated         bigint  NOT NULL DEFAULT 0,   -- requests whose tokens are an estimate
    timed             bigint  NOT NULL DEFAULT 0,   -- requests with a latency (lost ones have none)
    latency_us        numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (day, key_id, tenant, agent, model_group, provider)
);
CREATE INDEX usage_daily_agent ON usage_daily (agent, day);
CREATE INDEX usage_daily_key ON usage_daily (key_id, day);
CREATE INDEX usage_daily_tenant ON usage_daily (tenant, day);

CREATE TABLE usage_hourly (LIKE usage_daily INCLUDING DEFAULTS);
ALTER TABLE usage_hourly RENAME COLUMN day TO hour;
ALTER TABLE usage_hourly ALTER COLUMN hour TYPE timestamptz USING hour::timestamptz;
ALTER TABLE usage_hourly ADD PRIMARY KEY (hour, key_id, tenant, agent, model_group, provider);

CREATE TABLE usage_users (LIKE usage_daily INCLUDING DEFAULTS);
ALTER TABLE usage_users DROP COLUMN provider;
ALTER TABLE usage_users ADD COLUMN user_id text NOT NULL;
ALTER TABLE usage_users ADD PRIMARY KEY (day, user_id, key_id, tenant, agent, model_group);
CREATE INDEX usage_users_user ON usage_users (user_id, day);
CREATE INDEX usage_users_key ON usage_users (key_id, day);

-- Adds what a statement wrote to the three tables, each in the order of its key, so that two writers wait for
-- each other instead of locking each other out.
CREATE FUNCTION usage_follow() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    written  text := 'SELECT 1 AS sign, * FROM written';
    dims     text := 'key_id, tenant, agent, model_group';
    dims_of  text := $q$key_id, coalesce(tenant, '') AS tenant, coalesce(agent, '') AS agent, model_group$q$;
    sums     text := 'requests,succeeded,cache_hits,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,'
                     'cost_usd,unpriced,unmetered,estimated,timed,latency_us';
    sums_of  text := $q$
        sum(sign), sum(sign * (outcome = 'ok')::int), sum(sign * (cache = 'hit')::int),
        coalesce(sum(sign * prompt_tokens), 0), coalesce(sum(sign * completion_tokens), 0),
        coalesce(sum(sign * cached_tokens), 0), coalesce(sum(sign * reasoning_tokens), 0),
        coalesce(sum(sign * cost_usd), 0), sum(sign * (cost_usd IS NULL)::int),
        sum(sign * (prompt_tokens IS NULL)::int), sum(sign * (usage_source = 'estimated')::int),
        sum(sign * (outcome <> 'lost')::int),
        sum(sign * CASE WHEN outcome <> 'lost' THEN round(latency_ms * 1000)::bigint ELSE 0 END)$q$;
    adding   text := (SELECT string_agg(format('%1$s = u.%1$s + EXCLUDED.%1$s', name), ', ')
                      FROM unnest(string_to_array(sums, ',')) AS name);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        written := written || ' UNION ALL SELECT -1, * FROM replaced';
    END IF;
    EXECUTE format(
        $q$INSERT INTO usage_daily AS u (day, %2$s, provider, %4$s)
           SELECT (started_at AT TIME ZONE 'UTC')::date, %3$s, coalesce(provider, '') AS provider, %5$s
           FROM (%1$s) AS r GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
           ON CONFLICT (day, %2$s, provider) DO UPDATE SET %6$s$q$, written, dims, dims_of, sums, sums_of, adding);
    EXECUTE format(
        $q$INSERT INTO usage_hourly AS u (hour, %2$s, provider, %4$s)
           SELECT date_trunc('hour', started_at, 'UTC'), %3$s, coalesce(provider, '') AS provider, %5$s
           FROM (%1$s) AS r GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
           ON CONFLICT (hour, %2$s, provider) DO UPDATE SET %6$s$q$, written, dims, dims_of, sums, sums_of, adding);
    EXECUTE format(
        $q$INSERT INTO usage_users AS u (day, user_id, %2$s, %4$s)
           SELECT (started_at AT TIME ZONE 'UTC')::date, user_id, %3$s, %5$s
           FROM (%1$s) AS r WHERE user_id IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
           ON CONFLICT (day, user_id, %2$s) DO UPDATE SET %6$s$q$, written, dims, dims_of, sums, sums_of, adding);
    RETURN NULL;
END $$;

CREATE TRIGGER usage_follow_insert AFTER INSERT ON requests
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION usage_follow();
CREATE TRIGGER usage_follow_update AFTER UPDATE ON requests
    REFERENCING NEW TABLE AS written OLD TABLE AS replaced FOR EACH STATEMENT EXECUTE FUNCTION usage_follow();
