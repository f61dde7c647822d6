-- The call whose answer this one got, by its idempotency key: nothing was called for it, and it cost nothing. NULL: a call of
-- its own.

ALTER TABLE requests ADD COLUMN replay_of uuid;
