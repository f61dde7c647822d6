-- What a call's reservation was made of, so that recorded calls can be replayed against other limits exactly.
-- NULL: not known, as for calls before this version.

ALTER TABLE requests
    ADD COLUMN prompt_bytes bigint,
    ADD COLUMN max_tokens bigint,   -- NULL too where the request did not say
    ADD COLUMN choices integer;
