-- A call that failed names its provider where LiteLLM's log knows it: before, only estimates were looked at.

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
      AND t.prompt_tokens + t.completion_tokens > 0;
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
