-- notifications: what operators are told once; one row an event, whichever replica saw it first.
-- notification_deliveries: each event at each webhook; a webhook is named by a digest of its address, which is a secret.

CREATE TABLE notifications (
    event_id   uuid PRIMARY KEY,
    subject_id uuid        NOT NULL,          -- digest of the kind and of what it is about
    kind       text        NOT NULL,
    tenant     text,
    user_id    text,                          -- the only place that names a person
    facts      jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    keep_until timestamptz NOT NULL           -- at least until the budget's period ends: once a period
);

CREATE INDEX notifications_subject ON notifications (subject_id, created_at);
CREATE INDEX notifications_created ON notifications (created_at);
CREATE INDEX notifications_keep_until ON notifications (keep_until);

CREATE TABLE notification_deliveries (
    event_id     uuid        NOT NULL REFERENCES notifications ON DELETE CASCADE,
    webhook      text        NOT NULL,
    attempts     integer     NOT NULL DEFAULT 0,
    next_try_at  timestamptz NOT NULL DEFAULT now(),   -- while an attempt runs: when another replica may try
    delivered_at timestamptz,
    given_up_at  timestamptz,
    last_failure text,
    PRIMARY KEY (event_id, webhook)
);

CREATE INDEX notification_deliveries_due ON notification_deliveries (next_try_at)
    WHERE delivered_at IS NULL AND given_up_at IS NULL;

-- A person whose erasure begins is named by the pseudonym from then on, in what is still to be delivered too.
CREATE FUNCTION erase_person_in_notifications() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE notifications AS n SET user_id = NEW.pseudonym
    WHERE n.user_id = NEW.name AND coalesce(n.tenant, '') = NEW.tenant;
    RETURN NULL;
END $$;

CREATE TRIGGER erase_person_in_notifications AFTER INSERT OR UPDATE ON erasures
    FOR EACH ROW WHEN (NEW.name IS NOT NULL) EXECUTE FUNCTION erase_person_in_notifications();
