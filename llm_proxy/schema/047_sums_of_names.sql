-- Sums of days that are over, by one name, so that what pages ask for most needs no sum over every key, agent and model
-- of a day. `usage_name_days` has the sums of a day (UTC) by a kind of name, `usage_name_hours` those of its hours; the
-- kind '' is all calls, and alone has histograms. They are made from `usage_daily` and `usage_hourly`, and hold while
-- the day is in `usage_summed_days`: a statement that changes a day takes it out, in its own transaction, and the day is
-- read from the former until it is summed anew.

CREATE TABLE usage_summed_days (day date PRIMARY KEY);

DO $$
DECLARE
    made record;
BEGIN
    FOR made IN VALUES ('usage_name_days', 'usage_daily', 'day'), ('usage_name_hours', 'usage_hourly', 'hour') LOOP
        EXECUTE format('CREATE TABLE %I (LIKE %I)', made.column1, made.column2);
        EXECUTE format(
            'ALTER TABLE %I DROP COLUMN key_id, DROP COLUMN tenant, DROP COLUMN agent, DROP COLUMN model_group,'
            ' DROP COLUMN provider, ALTER COLUMN latency_buckets DROP NOT NULL, ALTER COLUMN ttft_buckets DROP NOT NULL,'
            ' ADD COLUMN kind text NOT NULL, ADD COLUMN name text NOT NULL, ADD PRIMARY KEY (kind, %I, name)',
            made.column1, made.column3);
    END LOOP;
END $$;

-- Takes the days that a statement changed out of `usage_summed_days`. Whoever sums a day holds its lock alone, whoever
-- changes it shares it until the end of the transaction: no sum misses a change.
CREATE FUNCTION forget_summed_days() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    days    date[];
    changed date;
BEGIN
    IF TG_TABLE_NAME = 'usage_hourly' THEN
        SELECT array_agg(DISTINCT (hour AT TIME ZONE 'UTC')::date) INTO days FROM written;
    ELSE
        SELECT array_agg(DISTINCT day) INTO days FROM written;
    END IF;
    FOREACH changed IN ARRAY coalesce(days, '{}') LOOP
        PERFORM pg_advisory_xact_lock_shared(hashtext('llm-proxy summed days'), changed - DATE '2000-01-01');
        DELETE FROM usage_summed_days WHERE day = changed;
    END LOOP;
    IF TG_OP = 'DELETE' THEN
        DELETE FROM usage_name_days
        WHERE kind = ANY(ARRAY['', 'key', 'agent', 'tenant', 'model', 'provider']) AND day = ANY(days);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER forget_summed_inserted AFTER INSERT ON usage_daily
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION forget_summed_days();
CREATE TRIGGER forget_summed_updated AFTER UPDATE ON usage_daily
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION forget_summed_days();
CREATE TRIGGER forget_summed_deleted AFTER DELETE ON usage_daily
    REFERENCING OLD TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION forget_summed_days();
CREATE TRIGGER forget_summed_inserted AFTER INSERT ON usage_hourly
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION forget_summed_days();
CREATE TRIGGER forget_summed_updated AFTER UPDATE ON usage_hourly
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION forget_summed_days();

-- Sums one day, whose lock the caller holds; returns the number of sums.
CREATE FUNCTION sum_usage_day(of_day date) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    begins constant timestamptz := of_day::timestamp AT TIME ZONE 'UTC';
    ends   constant timestamptz := (of_day + 1)::timestamp AT TIME ZONE 'UTC';
    kinds  constant text[] := ARRAY['', 'key', 'agent', 'tenant', 'model', 'provider'];
    names  text;
    sums   text;
    made   record;
    counted bigint;
    total   bigint := 0;
BEGIN
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum), string_agg(format('sum(%I)', attname), ', ' ORDER BY attnum)
    INTO names, sums FROM pg_attribute
    WHERE attrelid = 'usage_name_days'::regclass AND attnum > 0 AND NOT attisdropped
      AND attname NOT IN ('kind', 'day', 'name', 'latency_buckets', 'ttft_buckets');
    FOR made IN VALUES
        ('usage_name_days', 'usage_daily', 'day', 'day = $1'),
        ('usage_name_hours', 'usage_hourly', 'hour', 'hour >= $2 AND hour < $3')
    LOOP
        EXECUTE format('DELETE FROM %I WHERE kind = ANY($4) AND %s', made.column1, made.column4)
        USING of_day, begins, ends, kinds;
        EXECUTE format(
            $q$INSERT INTO %1$I (kind, %2$I, name, %3$s, latency_buckets, ttft_buckets)
               SELECT kind, %2$I, name, %4$s, sum(latency_buckets) FILTER (WHERE kind = ''),
                      sum(ttft_buckets) FILTER (WHERE kind = '')
               FROM %5$I CROSS JOIN LATERAL (VALUES
                   ('', ''), ('key', key_id), ('agent', agent), ('tenant', tenant), ('model', model_group),
                   ('provider', provider)) AS named (kind, name)
               WHERE %6$s GROUP BY kind, %2$I, name$q$,
            made.column1, made.column3, names, sums, made.column2, made.column4)
        USING of_day, begins, ends;
        GET DIAGNOSTICS counted = ROW_COUNT;
        total := total + counted;
    END LOOP;
    INSERT INTO usage_summed_days VALUES (of_day);
    RETURN total;
END $$;

-- Sums the newest day before today that is not summed and that nobody changes just now; returns the number of its sums.
-- At the end, 0: hours are forgotten as in usage_hourly.
CREATE FUNCTION sum_usage_days(most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    today constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    next_day date := today;
BEGIN
    LOOP
        SELECT max(day) INTO next_day FROM usage_daily WHERE day < next_day;
        EXIT WHEN next_day IS NULL;
        CONTINUE WHEN EXISTS (SELECT FROM usage_summed_days AS s WHERE s.day = next_day);
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(hashtext('llm-proxy summed days'), next_day - DATE '2000-01-01');
        CONTINUE WHEN EXISTS (SELECT FROM usage_summed_days AS s WHERE s.day = next_day);  -- another was faster
        RETURN greatest(1, sum_usage_day(next_day));
    END LOOP;
    DELETE FROM usage_name_hours
    WHERE kind = ANY(ARRAY['', 'key', 'agent', 'tenant', 'model', 'provider']) AND hour < (today - 35)::timestamp AT TIME ZONE 'UTC';
    RETURN 0;
END $$;

REVOKE EXECUTE ON FUNCTION forget_summed_days(), sum_usage_day(date), sum_usage_days(integer) FROM PUBLIC;

-- Days before this version follow beside the calls.
INSERT INTO schema_work (name, rows_total)
SELECT 'sum_usage_days', greatest(reltuples, 1)::bigint FROM pg_class
WHERE oid = 'usage_daily'::regclass AND EXISTS (SELECT FROM usage_daily);
