-- Responses that callers store at the gateway, only where the operator allows it. The id alone yields the key that
-- opens a row, and the digest that finds it: nothing in the database does. A person is a digest, too.

CREATE TABLE stored_responses (
    digest     bytea       PRIMARY KEY,
    person     bytea,                          -- SHA-256 of tenant, line feed, user; null without a user
    created_at timestamptz NOT NULL DEFAULT now(),
    sealed     text        NOT NULL
);
CREATE INDEX stored_responses_created ON stored_responses (created_at);
CREATE INDEX stored_responses_person ON stored_responses (person) WHERE person IS NOT NULL;

-- A person whose erasure begins, or goes on, has nothing stored from then on.
CREATE FUNCTION erase_person_in_stored_responses() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM stored_responses
    WHERE person = sha256(convert_to(NEW.tenant || E'\n' || NEW.name, 'UTF8'));
    RETURN NULL;
END $$;

CREATE TRIGGER erase_person_in_stored_responses AFTER INSERT OR UPDATE ON erasures
    FOR EACH ROW WHEN (NEW.name IS NOT NULL) EXECUTE FUNCTION erase_person_in_stored_responses();

REVOKE EXECUTE ON FUNCTION erase_person_in_stored_responses() FROM PUBLIC;
