-- How long a call waited in the gateway for a slot at a sidecar, in milliseconds, and the class in which it waited. NULL: not
-- known, as for calls before this version.

ALTER TABLE requests
    ADD COLUMN queue_ms real,
    ADD COLUMN priority text;
