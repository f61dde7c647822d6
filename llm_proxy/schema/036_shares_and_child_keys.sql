-- Shares of the queue by rule; keys below keys.

ALTER TABLE limit_rules
    ADD COLUMN weight integer CHECK (weight BETWEEN 1 AND 10000),   -- relative to 100, of a tenant or key
    ADD COLUMN priority text CHECK (priority IN ('interactive', 'batch'));

ALTER TABLE api_keys
    ADD COLUMN ancestors text[] NOT NULL DEFAULT '{}',   -- ids of the keys above a child key, the root first
    ADD COLUMN parent_lookup text,                       -- the parent's secret that made it, with which it ends
    ADD COLUMN run_id text;                              -- the one run it acts for
CREATE INDEX api_keys_ancestors ON api_keys USING gin (ancestors) WHERE ancestors <> '{}';

ALTER TABLE requests
    ADD COLUMN key_ancestors text[];                     -- NULL: the key is no child, or a call before this version
