-- requests: one row per admitted call, the truth of billing; refusals: a bounded sample of what was not admitted.
-- One partition a day (UTC), created ahead and dropped when its time is over: retention deletes no row.

CREATE TABLE requests (
    request_id        uuid        NOT NULL,
    started_at        timestamptz NOT NULL,
    key_id            text        NOT NULL,
    key_prefix        text        NOT NULL,
    tenant            text,
    agent             text,
    user_id           text,
    session_id        text,
    channel           text,
    client_request_id text,
    door              text        NOT NULL,
    dialect           text        NOT NULL,
    model             text        NOT NULL,
    model_group       text        NOT NULL,
    model_resolved    text,
    provider          text,
    deployment        text,
    streamed          boolean     NOT NULL,
    status            smallint    NOT NULL,   -- 0: nothing was sent
    outcome           text        NOT NULL,
    refusal_code      text,
    prompt_tokens     bigint,                 -- NULL: not known, here and below; never 0 instead
    completion_tokens bigint,
    cached_tokens     bigint,
    reasoning_tokens  bigint,
    cost_usd          numeric(20, 9),
    usage_source      text        NOT NULL,
    cache             text        NOT NULL,
    attempts          integer,
    latency_ms        double precision NOT NULL,
    ttft_ms           double precision,
    PRIMARY KEY (started_at, request_id),
    CHECK (outcome IN ('ok', 'error', 'client_gone', 'cut', 'lost')),
    CHECK (usage_source IN ('provider', 'sidecar', 'estimated', 'unknown')),
    CHECK (cache IN ('hit', 'miss', 'off'))
) PARTITION BY RANGE (started_at);

CREATE INDEX requests_id ON requests (request_id);
CREATE INDEX requests_agent ON requests (agent, started_at) WHERE agent IS NOT NULL;
CREATE INDEX requests_key ON requests (key_id, started_at);
CREATE INDEX requests_inexact ON requests (started_at) WHERE usage_source IN ('estimated', 'unknown');

CREATE TABLE refusals (
    request_id  uuid        NOT NULL,
    refused_at  timestamptz NOT NULL,
    status      smallint    NOT NULL,
    code        text,
    refused_by  text        NOT NULL,
    door        text,
    key_id      text,
    key_prefix  text,
    tenant      text,
    agent       text,
    model_group text,
    PRIMARY KEY (refused_at, request_id)
);

-- The partition of one day; making it twice is making it once.
CREATE FUNCTION requests_partition(of_day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name text := 'requests_' || to_char(of_day, 'YYYYMMDD');
BEGIN
    IF to_regclass(quote_ident(name)) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('llm-proxy requests partitions'));
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS %I PARTITION OF requests FOR VALUES FROM (%L) TO (%L)',
        name, of_day::timestamp AT TIME ZONE 'UTC', (of_day + 1)::timestamp AT TIME ZONE 'UTC'
    );
END $$;

-- Drops the partitions of days before the given one; returns their names. A busy table is left for next time.
CREATE FUNCTION requests_retire(before date) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name text;
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'requests'::regclass
          AND c.relname ~ '^requests_\d{8}$' AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        RETURN NEXT name;
    END LOOP;
END $$;
