-- Rules that count the calls of all tenants together, as a whole and by provider; and by call, which limits in shadow
-- mode would have refused it.

ALTER TABLE limit_rules DROP CONSTRAINT IF EXISTS limit_rules_scope_check;
ALTER TABLE limit_rules ADD CONSTRAINT limit_rules_scope_check
    CHECK (scope IN ('key', 'agent', 'tenant', 'user_model', 'tenant_group', 'global', 'provider'));

ALTER TABLE requests ADD COLUMN IF NOT EXISTS would_refuse text;   -- scope:kind, by commas; NULL: none
