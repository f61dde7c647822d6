-- Histograms in the roll-ups, so that percentiles of any group and range need no rows. A histogram is one number: each
-- bucket is twelve of its decimal digits, so that histograms add, and subtract, as numbers do. Four buckets double the
-- time: the first ends at 1.19 ms, the last begins at 58 minutes.

-- A histogram with this time in it; 0 without one.
CREATE FUNCTION latency_bucket(ms double precision) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN ms IS NULL THEN 0
        ELSE ('1e' || 12 * least(87, floor(4 * ln(greatest(ms, 1)) / ln(2::float8)))::int)::numeric END
$$;

DO $$
DECLARE
    rollup text;
BEGIN
    FOREACH rollup IN ARRAY ARRAY['usage_daily', 'usage_hourly', 'usage_users', 'usage_user_days'] LOOP
        EXECUTE format(
            'ALTER TABLE %I ADD COLUMN latency_buckets numeric NOT NULL DEFAULT 0,'
            ' ADD COLUMN ttft_buckets numeric NOT NULL DEFAULT 0', rollup);
    END LOOP;
END $$;

LOCK TABLE requests IN SHARE ROW EXCLUSIVE MODE;  -- a batch waits here, and is then followed by the new function

-- As before, with the histograms.
CREATE OR REPLACE FUNCTION usage_follow() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    rollup  record;
    written text := 'SELECT 1 AS sign, * FROM written';
    sums    text := 'requests,succeeded,cache_hits,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,'
                    'cost_usd,unpriced,unmetered,estimated,timed,latency_us,images,audio_ms,characters,search_units,'
                    'latency_buckets,ttft_buckets';
    sums_of text := $q$
        sum(sign), sum(sign * (outcome = 'ok')::int), sum(sign * (cache = 'hit')::int),
        coalesce(sum(sign * prompt_tokens), 0), coalesce(sum(sign * completion_tokens), 0),
        coalesce(sum(sign * cached_tokens), 0), coalesce(sum(sign * reasoning_tokens), 0),
        coalesce(sum(sign * cost_usd), 0),
        sum(sign * (cost_usd IS NULL AND (outcome = 'ok'
                    OR coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) + coalesce(images, 0)
                       + coalesce(audio_ms, 0) + coalesce(characters, 0) + coalesce(search_units, 0) > 0))::int),
        sum(sign * (prompt_tokens IS NULL)::int), sum(sign * (usage_source = 'estimated')::int),
        sum(sign * (outcome <> 'lost')::int),
        sum(sign * CASE WHEN outcome <> 'lost' THEN round(latency_ms * 1000)::bigint ELSE 0 END),
        coalesce(sum(sign * images), 0), coalesce(sum(sign * audio_ms), 0),
        coalesce(sum(sign * characters), 0), coalesce(sum(sign * search_units), 0),
        sum(sign * latency_bucket), sum(sign * ttft_bucket)$q$;
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
                            cached_tokens, reasoning_tokens, cost_usd, usage_source, latency_ms,
                            images, audio_ms, characters, search_units,
                            latency_bucket(CASE WHEN outcome <> 'lost' THEN latency_ms END) AS latency_bucket,
                            latency_bucket(ttft_ms) AS ttft_bucket
                     FROM (%5$s) AS w) AS r
               WHERE %6$s GROUP BY %2$s ORDER BY %2$s
               ON CONFLICT (%2$s) DO UPDATE SET %7$s$q$,
            rollup.column1, rollup.column2, sums, sums_of, written, rollup.column3, adding);
    END LOOP;
    RETURN NULL;
END $$;

-- Makes the histograms of one day (UTC) from its rows, and returns their number; again is the same. Who writes rows of
-- that day waits.
CREATE FUNCTION fill_latency_day(of_day date) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    rollup  record;
    counted bigint;
    filling text := $q$
        WITH fine AS MATERIALIZED (
            SELECT $1 AS day, date_trunc('hour', started_at, 'UTC') AS hour, user_id, key_id,
                   coalesce(tenant, '') AS tenant, coalesce(agent, '') AS agent, model_group,
                   coalesce(provider, '') AS provider, count(*) AS calls,
                   sum(latency_bucket(CASE WHEN outcome <> 'lost' THEN latency_ms END)) AS latency,
                   sum(latency_bucket(ttft_ms)) AS ttft
            FROM requests
            WHERE started_at >= $1::timestamp AT TIME ZONE 'UTC'
              AND started_at < ($1 + 1)::timestamp AT TIME ZONE 'UTC'
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8)$q$;
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    EXECUTE format('LOCK TABLE %I IN SHARE MODE', 'requests_' || to_char(of_day, 'YYYYMMDD'));
    FOR rollup IN VALUES
        ('usage_daily', 'day, key_id, tenant, agent, model_group, provider', 'day = $1', 'TRUE'),
        ('usage_hourly', 'hour, key_id, tenant, agent, model_group, provider',
         $q$hour >= $1::timestamp AT TIME ZONE 'UTC' AND hour < ($1 + 1)::timestamp AT TIME ZONE 'UTC'$q$, 'TRUE'),
        ('usage_users', 'day, user_id, key_id, tenant, agent, model_group', 'day = $1', 'user_id IS NOT NULL'),
        ('usage_user_days', 'day, user_id, key_id, tenant, agent', 'day = $1', 'user_id IS NOT NULL')
    LOOP
        filling := filling || format(
            $q$, filled_%1$s AS (
                UPDATE %1$I AS u SET latency_buckets = coalesce(f.latency_of, 0), ttft_buckets = coalesce(f.ttft_of, 0)
                FROM (SELECT %2$s FROM %1$I WHERE %3$s) AS d
                LEFT JOIN (SELECT %2$s, sum(latency) AS latency_of, sum(ttft) AS ttft_of FROM fine WHERE %4$s
                           GROUP BY %2$s) AS f USING (%2$s)
                WHERE (%5$s) = (%6$s))$q$,
            rollup.column1, rollup.column2, rollup.column3, rollup.column4,
            'u.' || replace(rollup.column2, ', ', ', u.'), 'd.' || replace(rollup.column2, ', ', ', d.'));
    END LOOP;
    EXECUTE filling || ' SELECT coalesce(sum(calls), 0) FROM fine' INTO counted USING of_day;
    RETURN counted;
END $$;

-- Fills the newest day before this version that is not filled yet; returns how many calls it had, 0 at the end.
CREATE FUNCTION fill_latency_histograms(most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    reached_at timestamptz := (SELECT coalesce(reached, created_at) FROM schema_work
                               WHERE name = 'fill_latency_histograms');
    next_day date;
BEGIN
    SELECT max(to_date(right(c.relname, 8), 'YYYYMMDD')) INTO next_day
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'requests'::regclass AND c.relname ~ '^requests_\d{8}$'
      AND to_date(right(c.relname, 8), 'YYYYMMDD') < (reached_at AT TIME ZONE 'UTC')::date;
    IF next_day IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE schema_work SET reached = next_day::timestamp AT TIME ZONE 'UTC' WHERE name = 'fill_latency_histograms';
    RETURN greatest(1, fill_latency_day(next_day));
END $$;

REVOKE EXECUTE ON FUNCTION fill_latency_day(date), fill_latency_histograms(integer) FROM PUBLIC;

-- The day of the migration is filled now if it is small; else the calls of its first hours are in no histogram. Earlier
-- days follow beside the calls.
DO $$
DECLARE
    few   constant integer := 100000;
    today constant date := (now() AT TIME ZONE 'UTC')::date;
    days  bigint;
BEGIN
    IF to_regclass('requests_' || to_char(today, 'YYYYMMDD')) IS NOT NULL
       AND (SELECT coalesce(sum(requests), 0) FROM usage_daily WHERE day = today) BETWEEN 1 AND few THEN
        PERFORM fill_latency_day(today);
    END IF;
    SELECT coalesce(sum(requests), 0) INTO days FROM usage_daily WHERE day < today
      AND to_regclass('requests_' || to_char(day, 'YYYYMMDD')) IS NOT NULL;
    IF days > 0 THEN
        INSERT INTO schema_work (name, rows_total) VALUES ('fill_latency_histograms', days);
    END IF;
END $$;
