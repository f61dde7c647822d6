-- Why a provider failed, in its own words, cleaned: no key, address, id, and nothing of the request.

ALTER TABLE requests ADD COLUMN IF NOT EXISTS provider_message text;
