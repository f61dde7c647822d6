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
