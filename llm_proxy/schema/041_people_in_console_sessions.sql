-- Whom a session of the console names: the user of a virtual key, or an admin. An erasure deletes these sessions.

ALTER TABLE console_sessions ADD COLUMN user_id text;

UPDATE console_sessions SET user_id = left(name, 128)
WHERE role <> 'key' AND name NOT IN ('admin_key', 'admin_read_key');

UPDATE console_sessions AS c SET user_id = left(k.user_id, 128)
FROM key_secrets AS s JOIN api_keys AS k USING (key_id)
WHERE c.role = 'key' AND c.name IN (s.lookup, 'sk-llmp-' || s.lookup);

-- Deletes a person's sessions and the admin keys that live for them alone; returns how many sessions.
CREATE FUNCTION erase_person_in_sessions(of_tenant text, of_user text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM admin_keys AS a USING console_sessions AS c
    WHERE a.session_id = c.session_id AND c.user_id = of_user AND coalesce(c.tenant, '') = of_tenant;
    DELETE FROM admin_keys AS a  -- the row of its session was dropped before
    WHERE a.session_id IS NOT NULL AND left(a.name, 128) = of_user AND coalesce(a.tenant, '') = of_tenant;
    DELETE FROM console_sessions AS c WHERE c.user_id = of_user AND coalesce(c.tenant, '') = of_tenant;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- As before, with the sessions that a backup brings back.
CREATE OR REPLACE FUNCTION erased_people_met() RETURNS TABLE (id uuid, name text)
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH met AS MATERIALIZED (  -- each table is read once, however many erasures there are
        SELECT d.tenant, d.user_id, min(d.day)::timestamp AT TIME ZONE 'UTC' AS since, false AS exact
        FROM usage_user_days AS d WHERE d.requests > 0 AND EXISTS (SELECT FROM erasures) GROUP BY 1, 2
        UNION ALL
        SELECT coalesce(p.tenant, ''), p.user_id, min(p.started_at), true
        FROM payloads AS p WHERE p.user_id IS NOT NULL AND EXISTS (SELECT FROM erasures) GROUP BY 1, 2
        UNION ALL
        SELECT coalesce(c.tenant, ''), c.user_id, min(c.created_at), true
        FROM console_sessions AS c WHERE c.user_id IS NOT NULL AND EXISTS (SELECT FROM erasures) GROUP BY 1, 2
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

REVOKE EXECUTE ON FUNCTION erase_person_in_sessions(text, text) FROM PUBLIC;
