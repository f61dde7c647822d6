-- litellm_imports: what `llm-proxy import litellm` made of a LiteLLM proxy's rows, so that a second run changes only
-- what changed there, leaves alone what operators changed here, and takes away what is gone there.
-- opening_spend: what a budget's owner had spent before its first call here; added to what the ledger sums.

CREATE TABLE litellm_imports (
    source      text  NOT NULL,              -- the operator's name of the LiteLLM proxy
    kind        text  NOT NULL CHECK (kind IN ('key', 'policy', 'switch')),
    source_id   text  NOT NULL,              -- a key: the SHA-256 under which LiteLLM stores it; else the row it is made of
    target      jsonb NOT NULL,              -- the key's id, the policy or the kill switch
    fingerprint bytea NOT NULL,              -- SHA-256 of what was to be imported
    imported_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, kind, source_id)
);

CREATE TABLE opening_spend (
    scope       text NOT NULL,
    tenant      text NOT NULL DEFAULT '',    -- '*': in every tenant; '': of a key, which has one tenant
    subject     text NOT NULL,
    model_group text NOT NULL DEFAULT '*',   -- '*': at every model
    period_start timestamptz NOT NULL,       -- counts in periods that began at this time or before
    cost_usd    numeric(20, 9) NOT NULL CHECK (cost_usd >= 0),
    PRIMARY KEY (scope, tenant, subject, model_group)
);
