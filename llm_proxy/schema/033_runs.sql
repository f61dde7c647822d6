-- Limits of runs: rules of their scope, with the longest time from a run's first call; and by call the run that they,
-- the loop guard and affinity know it by. NULL: it named none, as all calls before this version.

ALTER TABLE limit_rules DROP CONSTRAINT IF EXISTS limit_rules_scope_check;
ALTER TABLE limit_rules ADD CONSTRAINT limit_rules_scope_check
    CHECK (scope IN ('key', 'agent', 'tenant', 'user_model', 'tenant_group', 'global', 'provider', 'run'));
ALTER TABLE limit_rules ADD COLUMN duration_s bigint CHECK (duration_s >= 0);

ALTER TABLE requests ADD COLUMN run_name text;

-- ON ONLY: as the index of run_id; the partitions that are there go without, and have no such names.
CREATE INDEX requests_run_name ON ONLY requests (run_name, key_id, started_at) WHERE run_name IS NOT NULL;
