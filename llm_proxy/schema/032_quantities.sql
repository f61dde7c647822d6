-- What calls use beside tokens: images made, milliseconds of audio read or made, characters spoken, search units of
-- reranking. NULL in a row: none, or not known, as for calls before this version. `unpriced` counts calls that used
-- any of them, as those that used tokens.

ALTER TABLE requests
    ADD COLUMN images bigint,
    ADD COLUMN audio_ms bigint,
    ADD COLUMN characters bigint,
    ADD COLUMN search_units bigint;
ALTER TABLE llm_calls
    ADD COLUMN images bigint,
    ADD COLUMN audio_ms bigint,
    ADD COLUMN characters bigint,
    ADD COLUMN search_units bigint;

DO $$
DECLARE
    rollup text;
BEGIN
    FOREACH rollup IN ARRAY ARRAY['usage_daily', 'usage_hourly', 'usage_users', 'usage_user_days'] LOOP
        EXECUTE format(
            'ALTER TABLE %I ADD COLUMN images bigint NOT NULL DEFAULT 0, ADD COLUMN audio_ms bigint NOT NULL DEFAULT 0,'
            ' ADD COLUMN characters bigint NOT NULL DEFAULT 0, ADD COLUMN search_units bigint NOT NULL DEFAULT 0',
            rollup);
    END LOOP;
END $$;

CREATE OR REPLACE VIEW llm_calls_total AS
SELECT
    call_id,
    min(started_at) AS started_at,
    bool_or(status = 'success') AS succeeded,
    sum(prompt_tokens) FILTER (WHERE billed) AS prompt_tokens,
    sum(completion_tokens) FILTER (WHERE billed) AS completion_tokens,
    sum(cached_tokens) FILTER (WHERE billed) AS cached_tokens,
    sum(reasoning_tokens) FILTER (WHERE billed) AS reasoning_tokens,
    CASE WHEN count(*) FILTER (WHERE billed AND cost_usd IS NULL) = 0
         THEN sum(cost_usd) FILTER (WHERE billed) END AS cost_usd,
    (array_agg(provider ORDER BY status DESC, started_at DESC))[1] AS provider,
    (array_agg(model ORDER BY status DESC, started_at DESC))[1] AS model,
    (array_agg(deployment ORDER BY status DESC, started_at DESC))[1] AS deployment,
    sum(cache_write_tokens) FILTER (WHERE billed) AS cache_write_tokens,
    (array_agg(token_details ORDER BY status DESC, started_at DESC))[1] AS token_details,
    (array_agg(service_tier ORDER BY status DESC, started_at DESC))[1] AS service_tier,
    sum(images) FILTER (WHERE billed) AS images,
    sum(audio_ms) FILTER (WHERE billed) AS audio_ms,
    sum(characters) FILTER (WHERE billed) AS characters,
    sum(search_units) FILTER (WHERE billed) AS search_units
FROM (SELECT *, status = 'success' OR coalesce(completion_tokens, 0) > 0 AS billed FROM llm_calls) AS c
GROUP BY call_id;

-- As before, with the new columns.
CREATE OR REPLACE FUNCTION usage_follow() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    rollup  record;
    written text := 'SELECT 1 AS sign, * FROM written';
    sums    text := 'requests,succeeded,cache_hits,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,'
                    'cost_usd,unpriced,unmetered,estimated,timed,latency_us,images,audio_ms,characters,search_units';
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
        coalesce(sum(sign * characters), 0), coalesce(sum(sign * search_units), 0)$q$;
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
                            images, audio_ms, characters, search_units
                     FROM (%5$s) AS w) AS r
               WHERE %6$s GROUP BY %2$s ORDER BY %2$s
               ON CONFLICT (%2$s) DO UPDATE SET %7$s$q$,
            rollup.column1, rollup.column2, sums, sums_of, written, rollup.column3, adding);
    END LOOP;
    RETURN NULL;
END $$;

-- As before, with the new columns; a log that states no tokens, but what else was used, is believed too.
CREATE OR REPLACE FUNCTION enrich_requests(since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('llm-proxy enrichment')) THEN
        RETURN 0;
    END IF;
    UPDATE requests AS r SET
        prompt_tokens = coalesce(t.prompt_tokens, r.prompt_tokens),
        completion_tokens = coalesce(t.completion_tokens, r.completion_tokens),
        cached_tokens = coalesce(t.cached_tokens, r.cached_tokens),
        reasoning_tokens = coalesce(t.reasoning_tokens, r.reasoning_tokens),
        cache_write_tokens = coalesce(t.cache_write_tokens, r.cache_write_tokens),
        token_details = coalesce(t.token_details, r.token_details),
        service_tier = coalesce(t.service_tier, r.service_tier),
        cost_usd = coalesce(t.cost_usd, r.cost_usd),
        provider = coalesce(r.provider, t.provider),
        model_resolved = coalesce(r.model_resolved, t.model),
        deployment = coalesce(r.deployment, t.deployment),
        images = coalesce(t.images, r.images),
        audio_ms = coalesce(t.audio_ms, r.audio_ms),
        characters = coalesce(t.characters, r.characters),
        search_units = coalesce(t.search_units, r.search_units),
        usage_source = 'sidecar'
    FROM requests AS inexact
    CROSS JOIN LATERAL (SELECT * FROM llm_calls_total AS v WHERE v.call_id = inexact.request_id) AS t
    WHERE inexact.started_at >= since AND inexact.started_at < until
      AND inexact.usage_source IN ('estimated', 'unknown')
      AND r.started_at = inexact.started_at AND r.request_id = inexact.request_id
      AND ((t.prompt_tokens IS NOT NULL AND t.completion_tokens IS NOT NULL
            AND (t.succeeded OR t.prompt_tokens + t.completion_tokens > 0))
        OR (t.succeeded AND coalesce(t.images, t.audio_ms, t.characters, t.search_units) IS NOT NULL));
    GET DIAGNOSTICS changed = ROW_COUNT;
    UPDATE requests AS r SET
        provider = t.provider,
        model_resolved = coalesce(r.model_resolved, t.model),
        deployment = coalesce(r.deployment, t.deployment)
    FROM requests AS nameless
    CROSS JOIN LATERAL (SELECT * FROM llm_calls_total AS v WHERE v.call_id = nameless.request_id) AS t
    WHERE nameless.started_at >= since AND nameless.started_at < until
      AND nameless.usage_source IN ('estimated', 'unknown') AND nameless.provider IS NULL
      AND r.started_at = nameless.started_at AND r.request_id = nameless.request_id
      AND t.provider IS NOT NULL;
    RETURN changed;
END $$;
