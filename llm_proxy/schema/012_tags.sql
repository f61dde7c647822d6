-- Tags of keys and calls, and the run a call belongs to. NULL: none, as for all calls before this version.

ALTER TABLE requests ADD COLUMN tags text[], ADD COLUMN run_id text;
ALTER TABLE api_keys ADD COLUMN tags text[];

-- ON ONLY: partitions made from now on have these indexes; the ones there are go without, so that nothing waits
-- for their rows to be read. Sessions have been recorded before, and are found there by the time alone.
CREATE INDEX requests_session ON ONLY requests (session_id, started_at) WHERE session_id IS NOT NULL;
CREATE INDEX requests_run ON ONLY requests (run_id, started_at) WHERE run_id IS NOT NULL;
CREATE INDEX requests_tags ON ONLY requests USING gin (tags) WHERE tags IS NOT NULL;
