-- backups: when the database was backed up, by `llm-proxy backup` or by the operator's own tool.
-- database_marker: by which a gateway knows its database again, and finds one that came out of a backup.
-- lost_usage: what calls used whose rows a restore has lost, as an export of before tells; budgets count it.

CREATE TABLE backups (
    backup_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text        NOT NULL,                -- `pg_dump`, or the name of the operator's tool
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,                         -- NULL: it runs, or was cut off
    bytes       bigint CHECK (bytes >= 0),
    ok          boolean     NOT NULL DEFAULT false,
    note        text
);
CREATE INDEX backups_ok ON backups (finished_at) WHERE ok;

CREATE TABLE database_marker (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    lineage      uuid        NOT NULL,               -- made once; every copy and backup has it too
    generation   integer     NOT NULL DEFAULT 0,     -- restores that were acknowledged
    beat_ms      bigint      NOT NULL,               -- the last time a gateway used it; it never falls
    server_id    text,                               -- where it lay then; NULL: the server does not tell
    database_oid text,
    timeline     text,
    locked_at    timestamptz,                        -- it came out of a backup, and nobody has acknowledged that
    lock_reason  text
);

-- Where the database lies: differs after a restore into another server or database. A managed server may deny some.
CREATE FUNCTION database_identity(OUT server_id text, OUT database_oid text, OUT timeline text)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT oid::text INTO database_oid FROM pg_database WHERE datname = current_database();
    BEGIN
        SELECT system_identifier::text INTO server_id FROM pg_control_system();
    EXCEPTION WHEN OTHERS THEN
        server_id := NULL;
    END;
    BEGIN
        timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    EXCEPTION WHEN OTHERS THEN
        timeline := NULL;
    END;
END $$;

CREATE TABLE lost_usage (LIKE usage_daily INCLUDING DEFAULTS);
ALTER TABLE lost_usage ADD PRIMARY KEY (day, key_id, tenant, agent, model_group, provider);

-- Deletes a batch of the audit log of before the chain, whose trigger lets nobody else; returns how many rows.
CREATE FUNCTION retire_old_audit_log(before timestamptz, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    deleted bigint;
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only;
    DELETE FROM audit_log WHERE id = ANY(ARRAY(SELECT id FROM audit_log WHERE at < before ORDER BY id LIMIT most));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    ALTER TABLE audit_log ENABLE TRIGGER audit_log_append_only;
    RETURN deleted;
END $$;

REVOKE EXECUTE ON FUNCTION retire_old_audit_log(timestamptz, integer) FROM PUBLIC;
