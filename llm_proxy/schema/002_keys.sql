-- Virtual keys (digests only), rules of limits and budgets, kill switches, and the epochs that tell of changes;
-- audit_log: who changed what, and which credentials were refused.

CREATE TABLE api_keys (
    key_id          text PRIMARY KEY,
    name            text        NOT NULL UNIQUE,
    tenant          text,                        -- NULL: bound to none
    agent           text,                        -- '*': any agent of the tenant
    user_id         text,
    models          text[],                      -- names and wildcards; NULL: the default allow-list
    rpm             bigint CHECK (rpm >= 0),     -- NULL: the scope's default; 0: no limit
    tpm             bigint CHECK (tpm >= 0),
    parallel        bigint CHECK (parallel >= 0),
    budgets         jsonb       NOT NULL DEFAULT '[]',   -- [{"limit_nano_usd": 1, "period": "day"}]
    max_tokens_cap  integer CHECK (max_tokens_cap > 0),
    cache           boolean     NOT NULL DEFAULT true,
    expires_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    revoked_at      timestamptz
);

-- A key may have two secrets for a while: that is how it is rotated.
CREATE TABLE key_secrets (
    lookup      text PRIMARY KEY,                -- the public part of the secret
    key_id      text        NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    digest      bytea       NOT NULL CHECK (length(digest) = 32),   -- SHA-256 of the whole secret
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz                      -- end of the overlap after a rotation
);

CREATE INDEX key_secrets_key ON key_secrets (key_id);

CREATE TABLE limit_rules (
    scope            text   NOT NULL CHECK (scope IN ('key', 'agent', 'tenant', 'user_model', 'tenant_group')),
    tenant           text   NOT NULL DEFAULT '*',
    subject          text   NOT NULL DEFAULT '*',   -- '*': the scope's default
    model_group      text   NOT NULL DEFAULT '*',
    rpm              bigint CHECK (rpm >= 0),
    tpm              bigint CHECK (tpm >= 0),
    parallel         bigint CHECK (parallel >= 0),
    budgets          jsonb  NOT NULL DEFAULT '[]',
    mode             text   CHECK (mode IN ('enforce', 'shadow', 'off')),
    on_store_failure text   CHECK (on_store_failure IN ('deny', 'local', 'allow')),
    changed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, tenant, subject, model_group)
);

CREATE TABLE kill_switches (
    kind      text        NOT NULL CHECK (kind IN ('key', 'agent', 'tenant', 'model')),
    tenant    text        NOT NULL DEFAULT '*',
    subject   text        NOT NULL,
    reason    text        NOT NULL DEFAULT '',
    thrown_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, tenant, subject)
);

-- The epoch of a tenant ('' for requests without one, '*' for all) grows with every change that takes something
-- away. It is a time in milliseconds, so that a database made anew never counts behind what stores remember.
CREATE TABLE tenant_epochs (
    tenant text   PRIMARY KEY,
    epoch  bigint NOT NULL
);

CREATE FUNCTION next_epoch(of_tenant text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    now_ms bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
    raised bigint;
BEGIN
    -- One change at a time, so that no reader sees a later epoch before an earlier one.
    PERFORM pg_advisory_xact_lock(hashtext('llm-proxy epochs'));
    SELECT greatest(now_ms, coalesce(max(epoch), 0) + 1) INTO raised FROM tenant_epochs;
    INSERT INTO tenant_epochs (tenant, epoch) VALUES (of_tenant, raised)
    ON CONFLICT (tenant) DO UPDATE SET epoch = EXCLUDED.epoch;
    RETURN raised;
END $$;

CREATE TABLE audit_log (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    actor     text        NOT NULL,              -- who: an admin role, the command line, a refused caller
    action    text        NOT NULL,
    target    text        NOT NULL DEFAULT '',
    client_ip text,
    detail    jsonb       NOT NULL DEFAULT '{}'
);

CREATE INDEX audit_log_at ON audit_log (at);

-- What was written stays written, whoever asks.
CREATE FUNCTION audit_log_is_append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();
