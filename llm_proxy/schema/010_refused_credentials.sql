-- refused_credentials: who tried which credential where, counted by the minute; rows that lie in audit_log stay.
-- One partition a day (UTC), dropped when its time is over: strangers fill this table, so that it must end.

CREATE TABLE refused_credentials (
    at        timestamptz NOT NULL,              -- the minute; the hour in rows that sum up the rest of an address
    client_ip text        NOT NULL DEFAULT '',   -- '': all other addresses together
    path      text        NOT NULL DEFAULT '',   -- '': all other paths together
    prefix    text        NOT NULL DEFAULT '',   -- the public part of a key of our own form
    times     bigint      NOT NULL,
    last_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (at, client_ip, path, prefix)
) PARTITION BY RANGE (at);

-- Adds to the counts; makes the days' partitions. The role that calls it may do nothing else.
CREATE FUNCTION note_refused_credentials(
    ats timestamptz[], client_ips text[], paths text[], prefixes text[], counts bigint[]
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    of_day date;
    name   text;
BEGIN
    FOR of_day IN SELECT DISTINCT (given AT TIME ZONE 'UTC')::date FROM unnest(ats) AS given LOOP
        name := 'refused_credentials_' || to_char(of_day, 'YYYYMMDD');
        IF to_regclass(quote_ident(name)) IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtext('llm-proxy refused credentials partitions'));
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS %I PARTITION OF refused_credentials FOR VALUES FROM (%L) TO (%L)',
                name, of_day::timestamp AT TIME ZONE 'UTC', (of_day + 1)::timestamp AT TIME ZONE 'UTC'
            );
        END IF;
    END LOOP;
    -- In the order of the key, so that two writers wait for each other instead of locking each other out.
    INSERT INTO refused_credentials AS kept (at, client_ip, path, prefix, times)
    SELECT * FROM unnest(ats, client_ips, paths, prefixes, counts) ORDER BY 1, 2, 3, 4
    ON CONFLICT (at, client_ip, path, prefix)
        DO UPDATE SET times = kept.times + EXCLUDED.times, last_at = now();
END $$;

-- Drops the partitions of days before the given one. A busy table is left for next time.
CREATE FUNCTION retire_refused_credentials(before date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name text;
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'refused_credentials'::regclass
          AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE %I', name);
    END LOOP;
END $$;

REVOKE EXECUTE ON FUNCTION note_refused_credentials(timestamptz[], text[], text[], text[], bigint[]),
    retire_refused_credentials(date) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'llm_proxy_audit') THEN
        GRANT EXECUTE ON FUNCTION note_refused_credentials(timestamptz[], text[], text[], text[], bigint[])
            TO llm_proxy_audit;
    END IF;
END $$;
