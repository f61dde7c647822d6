-- Who is signed in at the console. The browser's cookie alone yields the key that opens `sealed`, the credential
-- that the session acts with; nothing in the database does, nor finds the cookie.

CREATE TABLE console_sessions (
    session_id   text PRIMARY KEY,                       -- public: it names the session in lists, and opens nothing
    digest       bytea       NOT NULL UNIQUE CHECK (length(digest) = 32),   -- SHA-256 of the cookie
    sealed       text        NOT NULL,
    name         text        NOT NULL,                   -- as the audit log knows the actor; a virtual key's public part
    role         text        NOT NULL CHECK (role IN ('owner', 'operator', 'viewer', 'tenant', 'key')),
    tenant       text,
    method       text        NOT NULL CHECK (method IN ('key', 'link', 'oidc')),
    client_ip    text,
    user_agent   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    ended_at     timestamptz                             -- signed out or revoked
);
CREATE INDEX console_sessions_expires ON console_sessions (expires_at);

-- Links that sign in once.
CREATE TABLE console_links (
    digest     bytea PRIMARY KEY CHECK (length(digest) = 32),   -- SHA-256 of the link's secret
    sealed     text        NOT NULL,                     -- the credential, sealed with that secret
    expires_at timestamptz NOT NULL
);

-- A person whom an identity provider vouches for acts with an admin key of one session, in the person's name:
-- several sessions of one person have keys of one name.
ALTER TABLE admin_keys ADD COLUMN session_id text;
ALTER TABLE admin_keys DROP CONSTRAINT admin_keys_name_key;
CREATE UNIQUE INDEX admin_keys_name_key ON admin_keys (name) WHERE session_id IS NULL;
