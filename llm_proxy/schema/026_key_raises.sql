-- key_raises: higher limits and budgets of a key for a time. A key has one at most that has not ended.
CREATE TABLE key_raises (
    raise_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id     text        NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    rpm        bigint CHECK (rpm >= 0),          -- NULL: as the key has it; 0: no limit
    tpm        bigint CHECK (tpm >= 0),
    parallel   bigint CHECK (parallel >= 0),
    budgets    jsonb       NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    until      timestamptz NOT NULL,
    ended_at   timestamptz                       -- NULL: it runs, or is over and not yet undone on record
);

CREATE UNIQUE INDEX key_raises_running ON key_raises (key_id) WHERE ended_at IS NULL;
CREATE INDEX key_raises_until ON key_raises (until) WHERE ended_at IS NULL;
