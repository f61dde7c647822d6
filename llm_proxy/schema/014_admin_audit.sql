-- admin_keys: who may use the admin API, by name and role (digests only).
-- audit_entries: what admins did, each entry with the digest of the one before. One partition a month (UTC), so
-- that retention drops whole months. audit_log keeps the rows from before; nothing writes there any more.
-- audit_people: the names behind the pseudonyms that entries use. Erasing a person deletes its row here.

CREATE TABLE admin_keys (
    key_id      text PRIMARY KEY,
    name        text        NOT NULL UNIQUE,
    role        text        NOT NULL CHECK (role IN ('owner', 'operator', 'viewer', 'tenant')),
    tenant      text        CHECK ((role = 'tenant') = (tenant IS NOT NULL)),
    lookup      text        NOT NULL UNIQUE,         -- the public part of the secret
    digest      bytea       NOT NULL CHECK (length(digest) = 32),   -- SHA-256 of the whole secret
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

CREATE TABLE audit_entries (
    seq        bigint      NOT NULL,                 -- without gaps, across all months
    at         timestamptz NOT NULL,
    previous   bytea       NOT NULL,                 -- the digest of entry seq - 1; 32 zero bytes in the first
    digest     bytea       NOT NULL,                 -- SHA-256 of `previous` and every column below and above
    actor      text        NOT NULL,                 -- a pseudonym, or a part of the gateway such as `keys file`
    role       text        NOT NULL,
    client_ip  text,
    action     text        NOT NULL,
    target     text        NOT NULL,
    status     integer,                              -- the HTTP status of a refusal; NULL: it was done
    reason     text,                                 -- why it was refused
    before     json,                                 -- json, not jsonb: the digest needs the text as it was written
    after      json,
    detail     json        NOT NULL,
    PRIMARY KEY (at, seq)
) PARTITION BY RANGE (at);

CREATE INDEX audit_entries_seq ON audit_entries (seq);

-- The end of the chain; it finds entries that were cut off there.
CREATE TABLE audit_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seq      bigint NOT NULL,
    at       timestamptz,                            -- NULL: no entry yet
    digest   bytea  NOT NULL
);

INSERT INTO audit_head (seq, digest)
SELECT coalesce(max(id), 0), decode(repeat('00', 32), 'hex') FROM audit_log;

CREATE TABLE audit_people (
    pseudonym text PRIMARY KEY,                      -- SHA-256 of the salt, kind, tenant and name
    kind      text  NOT NULL CHECK (kind IN ('admin', 'user')),
    tenant    text  NOT NULL DEFAULT '',             -- of a user; '': of no tenant
    name      text  NOT NULL,
    salt      bytea NOT NULL,
    UNIQUE (kind, tenant, name)
);

CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();

CREATE OR REPLACE FUNCTION audit_log_is_append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- Makes the partition of a month.
CREATE FUNCTION audit_partition(of_month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name text := 'audit_entries_' || to_char(of_month, 'YYYYMM');
BEGIN
    IF to_regclass(quote_ident(name)) IS NULL THEN
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF audit_entries FOR VALUES FROM (%L) TO (%L)', name,
            date_trunc('month', of_month::timestamp) AT TIME ZONE 'UTC',
            (date_trunc('month', of_month::timestamp) + interval '1 month') AT TIME ZONE 'UTC'
        );
        EXECUTE format(  -- a statement trigger of the parent does not fire for statements on the partition
            'CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()', name
        );
    END IF;
END $$;

-- Drops the partition of a month. A busy table is left for next time.
CREATE FUNCTION retire_audit_month(of_month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    EXECUTE format('DROP TABLE %I', 'audit_entries_' || to_char(of_month, 'YYYYMM'));
END $$;

REVOKE EXECUTE ON FUNCTION audit_partition(date), retire_audit_month(date) FROM PUBLIC;
