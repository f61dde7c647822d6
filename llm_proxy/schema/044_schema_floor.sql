-- The oldest schema, by the number of its last migration, whose gateways may run on this database; older ones refuse to
-- start. A release that migrates raises it to the schema of the release before.

CREATE TABLE schema_floor (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    oldest   integer NOT NULL
);
INSERT INTO schema_floor (oldest) VALUES (0);

-- Only the gateway's role calls it: it may delete.
REVOKE EXECUTE ON FUNCTION erase_person_in_notifications() FROM PUBLIC;
