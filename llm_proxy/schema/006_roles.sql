-- Roles that may do one thing. They cannot log in until somebody gives them a password (`llm-proxy migrate
-- --sidecar-password-file`). A server whose owner may not create roles goes without; the grants follow the roles.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['llm_proxy_sidecar', 'llm_proxy_audit'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role)
           AND (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- roles belong to the server: another database's migration was quicker
            END;
        END IF;
    END LOOP;
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'llm_proxy_sidecar') THEN
        -- Which of two events of one call wins is decided by reading these three columns, and no others.
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO llm_proxy_sidecar', current_schema());
        GRANT INSERT, UPDATE, SELECT (call_id, attempt, status) ON llm_calls TO llm_proxy_sidecar;
    END IF;
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'llm_proxy_audit') AND to_regclass('audit_log') IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO llm_proxy_audit', current_schema());
        GRANT INSERT ON audit_log TO llm_proxy_audit;
    END IF;
END $$;

-- What runs with its owner's rights is for the owner alone.
REVOKE EXECUTE ON FUNCTION requests_partition(date), requests_retire(date), retire_rows(date, date, date),
    enrich_requests(timestamptz, timestamptz), usage_follow() FROM PUBLIC;
