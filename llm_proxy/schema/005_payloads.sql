-- payloads: prompts and answers, only where the operator asked for them; apart from `requests`, with their own
-- retention (days are dropped by deletion: there are few), erasable by user.

CREATE TABLE payloads (
    request_id uuid        NOT NULL,
    started_at timestamptz NOT NULL,
    tenant     text,
    agent      text,
    user_id    text,
    prompt     text,
    answer     text,
    PRIMARY KEY (started_at, request_id)
);
CREATE INDEX payloads_user ON payloads (user_id) WHERE user_id IS NOT NULL;

-- Forgets rows of tables that are not partitioned: hours after 35 days (days and users stay), refusals after 14.
CREATE FUNCTION retire_rows(today date, calls_before date, payloads_before date) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DELETE FROM usage_hourly WHERE hour < (today - 35)::timestamp AT TIME ZONE 'UTC';
    DELETE FROM refusals WHERE refused_at < (today - 14)::timestamp AT TIME ZONE 'UTC';
    DELETE FROM llm_calls WHERE started_at < calls_before::timestamp AT TIME ZONE 'UTC';
    DELETE FROM payloads WHERE started_at < payloads_before::timestamp AT TIME ZONE 'UTC';
$$;
