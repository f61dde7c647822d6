-- Why a request was refused: the limit that refused it beside each refusal of the sample, and exact counts of all
-- refusals by minute, key and limit, kept as long as the sample.

ALTER TABLE refusals
    ADD COLUMN IF NOT EXISTS user_id text,
    ADD COLUMN IF NOT EXISTS reached jsonb;       -- the limit: kind, whose, how full, what was wanted; NULL: none

CREATE TABLE refusal_counts (
    minute      timestamptz NOT NULL,            -- in which the request came
    key_id      text        NOT NULL,            -- '': no key of ours
    tenant      text        NOT NULL,            -- the virtual key's; '': none, or a secret that may name any
    code        text        NOT NULL,
    limit_scope text        NOT NULL,            -- '': no limit refused it
    limit_kind  text        NOT NULL,
    worker      text        NOT NULL,
    times       bigint      NOT NULL,            -- all of this minute at this worker: written again it only grows
    PRIMARY KEY (minute, key_id, tenant, code, limit_scope, limit_kind, worker)
);
CREATE INDEX refusal_counts_key ON refusal_counts (key_id, minute);

-- As before, and counts of refusals are forgotten with the sample.
CREATE OR REPLACE FUNCTION retire_batch(today date, calls_before date, payloads_before date, most integer)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    kept    record;
    deleted bigint;
    total   bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('llm-proxy retirement')) THEN
        RETURN 0;
    END IF;
    FOR kept IN VALUES
        ('usage_hourly', 'hour', today - 35),
        ('refusals', 'refused_at', today - 14),
        ('refusal_counts', 'minute', today - 14),
        ('llm_calls_other', 'started_at', calls_before),
        ('payloads', 'started_at', payloads_before)
    LOOP
        EXECUTE format(
            'DELETE FROM %1$I WHERE ctid = ANY(ARRAY('
            'SELECT ctid FROM %1$I WHERE %2$I < $1::timestamp AT TIME ZONE ''UTC'' LIMIT $2))',
            kept.column1, kept.column2
        ) USING kept.column3, most;
        GET DIAGNOSTICS deleted = ROW_COUNT;
        total := total + deleted;
    END LOOP;
    RETURN total;
END $$;

-- Puts a person's pseudonym in the place of the name in refusals; returns how many, 0 when none is left.
CREATE FUNCTION erase_refused_person(of_tenant text, of_user text, pseudonym text, until timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE refusals AS r SET
        user_id = pseudonym,
        reached = CASE WHEN r.reached ->> 'scope' = 'user_model'
            THEN jsonb_set(r.reached, '{subject}', to_jsonb('user ' || pseudonym)) ELSE r.reached END
    WHERE r.user_id = of_user AND coalesce(r.tenant, '') = of_tenant AND r.refused_at < until;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

REVOKE EXECUTE ON FUNCTION erase_refused_person(text, text, text, timestamptz) FROM PUBLIC;
