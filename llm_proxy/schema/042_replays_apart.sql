-- An answer that was given again for its idempotency key is no call: roll-ups count it as `replays`, and in none of their
-- other sums, as no budget counts it. The rows stay: by them an erasure finds a person's days. Rejected requests get the
-- name of their run, as calls have it; an erasure deletes both.

-- Takes the replays so far out of the sums of days that have their rows. They are looked for before anybody waits: then
-- only the last hours, and days in which some were found, are read while batches wait here for the new function.
DO $$
DECLARE
    replay text := 'replay_of IS NOT NULL AND started_at >= $1::timestamp AT TIME ZONE ''UTC'''
                   ' AND started_at < ($1 + 1)::timestamp AT TIME ZONE ''UTC''';
    latest date[] := ARRAY[(now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date];
    days   date[] := latest;
    day    date;
    found  boolean;
    rollup record;
    rollup_name text;
BEGIN
    FOR day IN
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'requests'::regclass AND c.relname ~ '^requests_\d{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD')
              >= coalesce((SELECT applied_at FROM schema_steps WHERE number = 38), now())::date - 2
    LOOP
        EXECUTE 'SELECT EXISTS (SELECT FROM requests WHERE ' || replay || ')' INTO found USING day;
        IF found AND day <> ALL (latest) THEN
            days := days || day;
        END IF;
    END LOOP;
    LOCK TABLE requests IN SHARE ROW EXCLUSIVE MODE;
    FOREACH rollup_name IN ARRAY ARRAY['usage_daily', 'usage_hourly', 'usage_users', 'usage_user_days'] LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN replays bigint NOT NULL DEFAULT 0', rollup_name);
    END LOOP;
    FOREACH day IN ARRAY days LOOP
        FOR rollup IN VALUES
            ('usage_daily', 'day, key_id, tenant, agent, model_group, provider'),
            ('usage_hourly', 'hour, key_id, tenant, agent, model_group, provider'),
            ('usage_users', 'day, user_id, key_id, tenant, agent, model_group'),
            ('usage_user_days', 'day, user_id, key_id, tenant, agent')
        LOOP
            EXECUTE format(
                $q$UPDATE %1$I AS u SET
                       requests = u.requests - r.replays, replays = r.replays, succeeded = u.succeeded - r.succeeded,
                       timed = u.timed - r.timed, latency_us = u.latency_us - r.latency_us,
                       latency_buckets = u.latency_buckets - r.latency_buckets,
                       ttft_buckets = u.ttft_buckets - r.ttft_buckets
                   FROM (SELECT %2$s, count(*) AS replays, sum((outcome = 'ok')::int) AS succeeded, sum(timed) AS timed,
                                sum(timed * round(latency_ms * 1000)::bigint) AS latency_us,
                                sum(latency_bucket(CASE WHEN timed = 1 THEN latency_ms END)) AS latency_buckets,
                                sum(latency_bucket(ttft_ms)) AS ttft_buckets
                         FROM (SELECT $1 AS day, date_trunc('hour', started_at, 'UTC') AS hour, user_id, key_id,
                                      coalesce(tenant, '') AS tenant, coalesce(agent, '') AS agent, model_group,
                                      coalesce(provider, '') AS provider, outcome, (outcome <> 'lost')::int AS timed,
                                      latency_ms, ttft_ms
                               FROM requests WHERE %3$s) AS w
                         GROUP BY %2$s) AS r
                   WHERE (%4$s) = (%5$s)$q$,
                rollup.column1, rollup.column2, replay,
                'u.' || replace(rollup.column2, ', ', ', u.'), 'r.' || replace(rollup.column2, ', ', ', r.')
            ) USING day;
        END LOOP;
    END LOOP;
END $$;

-- As before, with replays apart.
CREATE OR REPLACE FUNCTION usage_follow() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    rollup  record;
    written text := 'SELECT 1 AS sign, * FROM written';
    sums    text := 'requests,succeeded,cache_hits,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,'
                    'cost_usd,unpriced,unmetered,estimated,timed,latency_us,images,audio_ms,characters,search_units,'
                    'latency_buckets,ttft_buckets,replays';
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
        sum(sign * latency_bucket), sum(sign * ttft_bucket), sum(replay)$q$;
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
               FROM (SELECT CASE WHEN replay_of IS NULL THEN sign ELSE 0 END AS sign,
                            CASE WHEN replay_of IS NULL THEN 0 ELSE sign END AS replay,
                            (started_at AT TIME ZONE 'UTC')::date AS day,
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

ALTER TABLE refusals ADD COLUMN run_name text;
CREATE INDEX refusals_run_name ON refusals (run_name, refused_at) WHERE run_name IS NOT NULL;

-- Four functions as before, but for these words.
DO $$
DECLARE
    change record;
    before text;
BEGIN
    FOR change IN VALUES
        ('fill_latency_day(date)', 'FROM requests', 'FROM (SELECT * FROM requests WHERE replay_of IS NULL) AS calls'),
        ('erase_person(text, text, text, timestamptz, integer)', 'u.requests = 0', 'u.requests + u.replays = 0'),
        ('erase_person(text, text, text, timestamptz, integer)', 'gone.requests > 0',
         'gone.requests + gone.replays > 0'),
        ('erase_person(text, text, text, timestamptz, integer)', 'run_id = NULL', 'run_id = NULL, run_name = NULL'),
        ('erase_refused_person(text, text, text, timestamptz)', 'user_id = pseudonym',
         'user_id = pseudonym, run_name = NULL'),
        ('erased_people_met()', 'd.requests > 0', 'd.requests + d.replays > 0')
    LOOP
        before := pg_get_functiondef(change.column1::regprocedure);
        IF strpos(before, change.column2) = 0 THEN
            RAISE EXCEPTION '% is not as it was made', change.column1;
        END IF;
        EXECUTE replace(before, change.column2, change.column3);
    END LOOP;
END $$;

