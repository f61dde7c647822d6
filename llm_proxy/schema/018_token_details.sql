-- What is billed apart of a call's tokens: written to the provider's cache, by 5 minutes and 1 hour, audio, images,
-- and the service tier that the answer states. NULL: not known, as for calls before this version.

ALTER TABLE requests
    ADD COLUMN cache_write_tokens bigint,
    ADD COLUMN token_details jsonb,   -- {"cache_write_1h_tokens": 200, "prompt_audio_tokens": 30, ...}, each above 0
    ADD COLUMN service_tier text;
ALTER TABLE llm_calls
    ADD COLUMN cache_write_tokens bigint,
    ADD COLUMN token_details jsonb,
    ADD COLUMN service_tier text;

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
    (array_agg(service_tier ORDER BY status DESC, started_at DESC))[1] AS service_tier
FROM (SELECT *, status = 'success' OR coalesce(completion_tokens, 0) > 0 AS billed FROM llm_calls) AS c
GROUP BY call_id;

-- As before, with the new columns; tokens the log states as 0 are believed of a call that succeeded.
CREATE OR REPLACE FUNCTION enrich_requests(since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('llm-proxy enrichment')) THEN
        RETURN 0;
    END IF;
    UPDATE requests AS r SET
        prompt_tokens = t.prompt_tokens,
        completion_tokens = t.completion_tokens,
        cached_tokens = coalesce(t.cached_tokens, r.cached_tokens),
        reasoning_tokens = coalesce(t.reasoning_tokens, r.reasoning_tokens),
        cache_write_tokens = coalesce(t.cache_write_tokens, r.cache_write_tokens),
        token_details = coalesce(t.token_details, r.token_details),
        service_tier = coalesce(t.service_tier, r.service_tier),
        cost_usd = coalesce(t.cost_usd, r.cost_usd),
        provider = coalesce(r.provider, t.provider),
        model_resolved = coalesce(r.model_resolved, t.model),
        deployment = coalesce(r.deployment, t.deployment),
        usage_source = 'sidecar'
    FROM requests AS inexact
    CROSS JOIN LATERAL (SELECT * FROM llm_calls_total AS v WHERE v.call_id = inexact.request_id) AS t
    WHERE inexact.started_at >= since AND inexact.started_at < until
      AND inexact.usage_source IN ('estimated', 'unknown')
      AND r.started_at = inexact.started_at AND r.request_id = inexact.request_id
      AND t.prompt_tokens IS NOT NULL AND t.completion_tokens IS NOT NULL
      AND (t.succeeded OR t.prompt_tokens + t.completion_tokens > 0);
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
