-- The roll-ups' `unpriced` counts what the metric counts: calls that were answered, or used tokens, and whose cost is not
-- known. A call that failed before it used anything is none of these; of the days before this version it is in the sums.

-- As before, but for `unpriced`.
CREATE OR REPLACE FUNCTION usage_follow() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    rollup  record;
    written text := 'SELECT 1 AS sign, * FROM written';
    sums    text := 'requests,succeeded,cache_hits,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,'
                    'cost_usd,unpriced,unmetered,estimated,timed,latency_us';
    sums_of text := $q$
        sum(sign), sum(sign * (outcome = 'ok')::int), sum(sign * (cache = 'hit')::int),
        coalesce(sum(sign * prompt_tokens), 0), coalesce(sum(sign * completion_tokens), 0),
        coalesce(sum(sign * cached_tokens), 0), coalesce(sum(sign * reasoning_tokens), 0),
        coalesce(sum(sign * cost_usd), 0),
        sum(sign * (cost_usd IS NULL AND (outcome = 'ok'
                    OR coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) > 0))::int),
        sum(sign * (prompt_tokens IS NULL)::int), sum(sign * (usage_source = 'estimated')::int),
        sum(sign * (outcome <> 'lost')::int),
        sum(sign * CASE WHEN outcome <> 'lost' THEN round(latency_ms * 1000)::bigint ELSE 0 END)$q$;
    adding  text := (SELECT string_agg(format('%1$s = u.%1$s + EXCLUDED.%1$s', name), ', ')
                     FROM unnest(string_to_array(sums, ',')) AS name);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        written := written || ' UNION ALL SELECT -1, * FROM replaced';
    END IF;
    FOR rollup IN VALUES
        ('usage_daily', 'day, key_id, tenant, agent, model_group, provider', 'TRUE'),
        ('usage_hourly', 'hour, key_id, tenant, agent, model_group, provider', 'TRUE'),
        ('usage_users', 'day, user_id, key_id, tenant, agent, model_group', 'user_id IS NOT NULL'),
        ('usage_user_days', 'day, user_id, key_id, tenant, agent', 'user_id IS NOT NULL')
    LOOP
        EXECUTE format(
            $q$INSERT INTO %1$I AS u (%2$s, %3$s)
               SELECT %2$s, %4$s
               FROM (SELECT sign, (started_at AT TIME ZONE 'UTC')::date AS day,
                            date_trunc('hour', started_at, 'UTC') AS hour, user_id, key_id,
                            coalesce(tenant, '') AS tenant, coalesce(agent, '') AS agent, model_group,
                            coalesce(provider, '') AS provider, outcome, cache, prompt_tokens, completion_tokens,
                            cached_tokens, reasoning_tokens, cost_usd, usage_source, latency_ms
                     FROM (%5$s) AS w) AS r
               WHERE %6$s GROUP BY %2$s ORDER BY %2$s
               ON CONFLICT (%2$s) DO UPDATE SET %7$s$q$,
            rollup.column1, rollup.column2, sums, sums_of, written, rollup.column3, adding);
    END LOOP;
    RETURN NULL;
END $$;
