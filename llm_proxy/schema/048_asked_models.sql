-- The model that a rejected request named, as the caller wrote it: bounded and cleaned by the gateway. NULL: its body was
-- not read, or named none.
ALTER TABLE refusals ADD COLUMN IF NOT EXISTS model text;
