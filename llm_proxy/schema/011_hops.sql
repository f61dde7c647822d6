-- A call's record names the group that was asked beside the one that served, and every attempt at a provider:
-- [[group, deployment, HTTP status], ...] in order. NULL: not known, as for calls before this version.

ALTER TABLE requests ADD COLUMN group_asked text, ADD COLUMN hops jsonb;
