-- The loop guard: what a limit policy says of it, and what it found of a call.

ALTER TABLE limit_rules
    ADD COLUMN IF NOT EXISTS loop_guard jsonb;        -- mode and thresholds that the rule sets; NULL: nothing

ALTER TABLE requests
    ADD COLUMN IF NOT EXISTS guard_action text,       -- observe, warn; NULL: nothing was found
    ADD COLUMN IF NOT EXISTS guard_signal text,       -- repeat, cycle, stall, burst, spend
    ADD COLUMN IF NOT EXISTS guard_times  integer;    -- how often
