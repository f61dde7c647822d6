-- Indexes for the search of requests: by tenant, user, the caller's own id, and those that failed; and the ids by which
-- a provider knows a call, in the sidecar's log.

-- ON ONLY: partitions made from now on have them. Those that were made ahead get them here, the days before today
-- beside the calls, one index of one day at a time; so do the indexes that 012 made in the same way.
CREATE INDEX requests_tenant ON ONLY requests (tenant, started_at) WHERE tenant IS NOT NULL;
CREATE INDEX requests_user ON ONLY requests (user_id, started_at) WHERE user_id IS NOT NULL;
CREATE INDEX requests_client_id ON ONLY requests (client_request_id) WHERE client_request_id IS NOT NULL;
CREATE INDEX requests_failed ON ONLY requests (started_at) WHERE outcome <> 'ok';

ALTER TABLE llm_calls
    ADD COLUMN answer_id text,              -- the id in the answer's body, as the caller received it
    ADD COLUMN provider_request_id text;    -- the id in the provider's headers, by which its support finds the call
CREATE INDEX llm_calls_answer ON ONLY llm_calls (answer_id) WHERE answer_id IS NOT NULL;
CREATE INDEX llm_calls_provider_request ON ONLY llm_calls (provider_request_id) WHERE provider_request_id IS NOT NULL;

-- Makes one index that a partition lacks and its table has; returns whether one was missing. Writers of it wait.
CREATE FUNCTION make_missing_index(partition regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    whole regclass;
    name  text;
BEGIN
    SELECT w.indexrelid INTO whole
    FROM pg_inherits h JOIN pg_index w ON w.indrelid = h.inhparent AND NOT w.indisvalid
    WHERE h.inhrelid = partition AND NOT EXISTS (
        SELECT 1 FROM pg_inherits a JOIN pg_index p ON p.indexrelid = a.inhrelid
        WHERE a.inhparent = w.indexrelid AND p.indrelid = partition)
    ORDER BY w.indexrelid LIMIT 1;
    IF whole IS NULL THEN
        RETURN false;
    END IF;
    PERFORM set_config('lock_timeout', '2s', true);
    name := (SELECT relname FROM pg_class WHERE oid = partition) || '_' || (SELECT relname FROM pg_class WHERE oid = whole);
    EXECUTE regexp_replace(
        pg_get_indexdef(whole), '^CREATE INDEX \S+ ON ONLY \S+', format('CREATE INDEX %I ON %s', name, partition));
    EXECUTE format('ALTER INDEX %s ATTACH PARTITION %I', whole, name);
    RETURN true;
END $$;

-- Makes an index of the newest day before today that lacks one; returns about how many rows it has, 0 at the end.
CREATE FUNCTION index_request_days(most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    day record;
BEGIN
    FOR day IN
        SELECT c.oid::regclass AS partition, c.reltuples FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'requests'::regclass AND c.relname ~ '^requests_\d{8}$'
          AND right(c.relname, 8) < to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')
        ORDER BY c.relname DESC
    LOOP
        IF make_missing_index(day.partition) THEN
            RETURN greatest(1, day.reltuples::bigint);
        END IF;
    END LOOP;
    RETURN 0;
END $$;

REVOKE EXECUTE ON FUNCTION make_missing_index(regclass), index_request_days(integer) FROM PUBLIC;

DO $$
DECLARE
    few   constant bigint := 100000;
    today constant text := to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD');
    day   record;
    past  bigint;
BEGIN
    FOR day IN
        SELECT c.oid::regclass AS partition, c.reltuples FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('requests'::regclass, 'llm_calls'::regclass) AND c.relname ~ '_\d{8}$'
          AND right(c.relname, 8) >= today
    LOOP
        IF day.reltuples <= few THEN  -- a larger one is searched by time alone, until it goes
            WHILE make_missing_index(day.partition) LOOP
            END LOOP;
        END IF;
    END LOOP;
    SELECT sum(c.reltuples)::bigint INTO past FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'requests'::regclass AND c.relname ~ '^requests_\d{8}$' AND right(c.relname, 8) < today;
    IF past IS NOT NULL THEN
        INSERT INTO schema_work (name, rows_total) VALUES ('index_request_days', greatest(past, 1));
    END IF;
END $$;
