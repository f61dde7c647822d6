-- llm_calls: model calls as LiteLLM saw them, written by our callback in the sidecar. Enrichment, never billing.
-- One request may hold several (a failed attempt, a fallback); `attempt` tells them apart within a call id, which
-- is the gateway's request id where the call came through the gateway.

CREATE TABLE llm_calls (
    call_id           uuid        NOT NULL,
    attempt           text        NOT NULL DEFAULT '',
    started_at        timestamptz NOT NULL,
    ended_at          timestamptz,
    model_group       text,
    deployment        text,
    provider          text,
    model             text,
    status            text        NOT NULL,     -- 'success' or 'failure', as LiteLLM says
    error_class       text,
    normalized_error  text,
    http_status       smallint,
    prompt_tokens     bigint,
    completion_tokens bigint,
    cached_tokens     bigint,
    reasoning_tokens  bigint,
    cost_usd          numeric(20, 9),           -- NULL: not known
    cost_breakdown    jsonb,
    cache_hit         boolean,
    attempts          integer,
    logged_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (call_id, attempt)
);
CREATE INDEX llm_calls_time ON llm_calls (started_at);

-- One line per request: what its model calls cost together. Failed attempts count where an answer had begun.
CREATE VIEW llm_calls_total AS
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
    (array_agg(deployment ORDER BY status DESC, started_at DESC))[1] AS deployment
FROM (SELECT *, status = 'success' OR coalesce(completion_tokens, 0) > 0 AS billed FROM llm_calls) AS c
GROUP BY call_id;

-- Where the gateway had to estimate, or knew nothing, and LiteLLM's log knows: take its figures, and say so.
-- Only what is missing or estimated is replaced; the roll-ups follow. Returns how many requests it changed.
CREATE FUNCTION enrich_requests(since timestamptz, until timestamptz) RETURNS bigint
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
    RETURN changed;
END $$;
