-- erasures: the people whose text and name were erased. A name is kept only until its erasure is complete; afterwards it
-- is known again by its digest alone, so that rows which come late, or out of a backup, can be erased again.

CREATE TABLE erasures (
    id          uuid PRIMARY KEY,
    tenant      text        NOT NULL,              -- '': calls without a tenant
    salt        bytea       NOT NULL,
    digest      bytea       NOT NULL,              -- SHA-256 of the salt and the name
    pseudonym   text        NOT NULL UNIQUE,       -- what stands in the name's place
    name        text,                              -- NULL: the erasure is complete
    asked_at    timestamptz NOT NULL,              -- calls that began before this are meant
    finished_at timestamptz,
    stores      json        NOT NULL DEFAULT '{}'  -- the certificate: what was found where, and what was done
);

-- Does a batch of one person's erasure: payloads are deleted, requests and roll-ups get the pseudonym, sums stay.
-- Returns how many rows of each kind it did; all zero when nothing is left.
CREATE FUNCTION erase_person(
    of_tenant text, of_user text, pseudonym text, until timestamptz, most integer,
    OUT payloads bigint, OUT requests bigint, OUT rollups bigint, OUT keys bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    last_day date := (until AT TIME ZONE 'UTC')::date;
    counted  bigint;
    one      record;
BEGIN
    requests := 0;
    rollups := 0;
    DELETE FROM payloads AS p WHERE p.ctid = ANY(ARRAY(
        SELECT q.ctid FROM payloads AS q
        WHERE q.user_id = of_user AND coalesce(q.tenant, '') = of_tenant AND q.started_at < until LIMIT most));
    GET DIAGNOSTICS payloads = ROW_COUNT;
    FOR one IN
        SELECT DISTINCT d.key_id, d.day::timestamp AT TIME ZONE 'UTC' AS since,
               least((d.day + 1)::timestamp AT TIME ZONE 'UTC', until) AS before
        FROM usage_user_days AS d
        WHERE d.user_id = of_user AND d.tenant = of_tenant AND d.day <= last_day
    LOOP
        EXIT WHEN requests >= most;
        UPDATE requests AS r SET user_id = pseudonym, session_id = NULL, run_id = NULL, client_request_id = NULL,
                                 provider_message = NULL
        FROM (SELECT q.started_at, q.request_id FROM requests AS q
              WHERE q.key_id = one.key_id AND q.started_at >= one.since AND q.started_at < one.before
                AND q.user_id = of_user AND coalesce(q.tenant, '') = of_tenant
              LIMIT most - erase_person.requests) AS found
        WHERE r.started_at >= one.since AND r.started_at < one.before
          AND r.started_at = found.started_at AND r.request_id = found.request_id;
        GET DIAGNOSTICS counted = ROW_COUNT;
        requests := requests + counted;
    END LOOP;
    IF requests = 0 THEN  -- what the roll-ups still say of this name is of days whose rows are gone
        FOR one IN
            SELECT c.relname AS tab, k.conname,
                   string_agg(quote_ident(a.attname), ', ') FILTER (WHERE a.attname <> 'user_id') AS names,
                   string_agg(format('%1$I = kept.%1$I + EXCLUDED.%1$I', a.attname), ', ')
                       FILTER (WHERE a.attnum <> ALL (k.conkey)) AS adding
            FROM pg_class AS c
            JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.oid IN ('usage_users'::regclass, 'usage_user_days'::regclass)
            GROUP BY c.relname, k.conname
        LOOP
            EXECUTE format(
                'WITH gone AS (DELETE FROM %1$I AS u WHERE u.user_id = $1 AND u.tenant = $2'
                '              AND (u.day < $3 OR u.day = $3 AND u.requests = 0) RETURNING u.*)'
                ' INSERT INTO %1$I AS kept (user_id, %2$s) SELECT $4, %2$s FROM gone WHERE gone.requests > 0'
                ' ON CONFLICT ON CONSTRAINT %3$I DO UPDATE SET %4$s',
                one.tab, one.names, one.conname, one.adding
            ) USING of_user, of_tenant, last_day, pseudonym;
            GET DIAGNOSTICS counted = ROW_COUNT;
            rollups := rollups + counted;
        END LOOP;
    END IF;
    UPDATE api_keys AS k SET user_id = pseudonym
    WHERE left(k.user_id, 128) = of_user AND coalesce(k.tenant, '') = of_tenant  -- rows of calls keep 128 characters
      AND (k.revoked_at IS NOT NULL OR k.expires_at < now());
    GET DIAGNOSTICS keys = ROW_COUNT;
END $$;

-- What else still has this name: live keys, rules, rows of the old audit log, tables that this version does not know.
CREATE FUNCTION person_left_in(of_tenant text, of_user text) RETURNS TABLE (place text, found bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    one record;
BEGIN
    RETURN QUERY SELECT 'live keys', count(*) FROM api_keys AS k
        WHERE left(k.user_id, 128) = of_user AND coalesce(k.tenant, '') = of_tenant;
    RETURN QUERY SELECT 'limit rules', count(*) FROM limit_rules AS l
        WHERE l.scope = 'user_model' AND left(l.subject, 128) = of_user AND l.tenant IN (of_tenant, '*');
    RETURN QUERY SELECT 'old audit log', count(*) FROM audit_log AS a WHERE left(a.target, 128) = of_user;
    FOR one IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND c.relname NOT IN ('payloads', 'requests', 'usage_users', 'usage_user_days', 'api_keys')
          AND 2 = (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND NOT a.attisdropped
                   AND a.attname IN ('tenant', 'user_id'))
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %L, count(*) FROM %I AS t WHERE t.user_id = $1 AND coalesce(t.tenant, '''') = $2',
            'table ' || one.relname, one.relname
        ) USING of_user, of_tenant;
    END LOOP;
END $$;

-- The names that finished erasures are met under again: in rows that came late, or out of a backup.
CREATE FUNCTION erased_people_met() RETURNS TABLE (id uuid, name text)
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH met AS MATERIALIZED (  -- each table is read once, however many erasures there are
        SELECT d.tenant, d.user_id, min(d.day)::timestamp AT TIME ZONE 'UTC' AS since, false AS exact
        FROM usage_user_days AS d WHERE d.requests > 0 AND EXISTS (SELECT FROM erasures) GROUP BY 1, 2
        UNION ALL
        SELECT coalesce(p.tenant, ''), p.user_id, min(p.started_at), true
        FROM payloads AS p WHERE p.user_id IS NOT NULL AND EXISTS (SELECT FROM erasures) GROUP BY 1, 2
    )
    SELECT DISTINCT e.id, m.user_id FROM erasures AS e JOIN met AS m ON m.tenant = e.tenant
    WHERE e.finished_at IS NOT NULL AND m.since < e.asked_at
      AND sha256(e.salt || convert_to(m.user_id, 'UTF8')) = e.digest
      AND (m.exact OR m.since < (e.asked_at AT TIME ZONE 'UTC')::date::timestamp AT TIME ZONE 'UTC' OR EXISTS (
          SELECT FROM requests AS r
          WHERE r.user_id = m.user_id AND coalesce(r.tenant, '') = m.tenant
            AND r.key_id IN (SELECT d.key_id FROM usage_user_days AS d WHERE d.user_id = m.user_id AND d.day >= m.since)
            AND r.started_at >= m.since AND r.started_at < e.asked_at))
$$;

REVOKE EXECUTE ON FUNCTION erase_person(text, text, text, timestamptz, integer), person_left_in(text, text),
    erased_people_met() FROM PUBLIC;
