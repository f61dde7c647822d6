-- payloads: prompts and answers, only where the operator asked for them; apart from `requests`, with their own
-- retention (days are dropped by deletion: there are few), erasable by user.

CREATE TABLE payloads (
    request_id uuid        NOT NULL,
    started_at timestamptz NOT NULL,
    tenant     text,
    agent      text,
    user_id    text,
    prompt     text,
    answer     text,
    PRIMARY KEY (started_at, request_id)
);
CREATE INDEX payloads_user ON payloads (user_id) WHERE user_id IS NOT NULL;
