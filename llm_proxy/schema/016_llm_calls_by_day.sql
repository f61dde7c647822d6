-- llm_calls by day, as `requests` is: what is past its time goes by partition. It is partitioned by call_id: the first
-- 48 bits of a request's id are its millisecond (UUIDv7), so an id finds its one partition, and the key stays what
-- older sidecars write by. Ids of another kind, and days without a partition, lie in llm_calls_other.

-- What takes long on a large database is left to be done in batches beside the calls: one row a job, named after the
-- function that does a batch: name(most integer) returns how many rows it did, 0 when nothing is left.
CREATE TABLE schema_work (
    name        text PRIMARY KEY,
    rows_total  bigint      NOT NULL,            -- about
    rows_done   bigint      NOT NULL DEFAULT 0,
    reached     timestamptz,                     -- the job's own note of how far it is
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

-- Does a batch of the oldest unfinished job; no row when there is none, or others are at it.
CREATE FUNCTION do_schema_work(
    most integer, OUT job text, OUT done bigint, OUT total bigint, OUT finished boolean
) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    moved bigint;
BEGIN
    SELECT w.name INTO job FROM schema_work AS w WHERE w.finished_at IS NULL
    ORDER BY w.created_at, w.name LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF job IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT %I($1)', job) INTO moved USING most;
    UPDATE schema_work AS w
    SET rows_done = w.rows_done + moved, finished_at = CASE WHEN moved = 0 THEN clock_timestamp() END
    WHERE w.name = job
    RETURNING w.rows_done, greatest(w.rows_total, w.rows_done), w.finished_at IS NOT NULL
    INTO done, total, finished;
    RETURN NEXT;
END $$;

DO $$
DECLARE
    totals text := pg_get_viewdef('llm_calls_total'::regclass);
BEGIN
    DROP VIEW llm_calls_total;
    ALTER TABLE llm_calls RENAME TO llm_calls_before;
    ALTER INDEX llm_calls_pkey RENAME TO llm_calls_before_pkey;
    ALTER INDEX llm_calls_time RENAME TO llm_calls_before_time;
    CREATE TABLE llm_calls (
        LIKE llm_calls_before INCLUDING DEFAULTS, PRIMARY KEY (call_id, attempt)
    ) PARTITION BY RANGE (call_id);
    CREATE INDEX llm_calls_time ON llm_calls (started_at);
    CREATE TABLE llm_calls_other PARTITION OF llm_calls DEFAULT;
    EXECUTE 'CREATE VIEW llm_calls_total AS ' || totals;  -- it names llm_calls: the new one
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'llm_proxy_sidecar') THEN
        GRANT INSERT, UPDATE, SELECT (call_id, attempt, status) ON llm_calls TO llm_proxy_sidecar;
    END IF;
END $$;

-- The smallest UUIDv7 of a day (UTC).
CREATE FUNCTION first_id_of(of_day date) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT rpad(lpad(to_hex((extract(epoch FROM of_day::timestamp AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0'),
                32, '0')::uuid
$$;

-- The day (UTC) in a UUIDv7; NULL for an id of another kind.
CREATE FUNCTION day_of_id(id uuid) RETURNS date
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN substr(id::text, 15, 1) = '7' THEN
        (to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000) AT TIME ZONE 'UTC')::date
    END
$$;

-- The partition of one day; making it twice is making it once. Rows of that day that lie elsewhere come into it.
CREATE FUNCTION llm_calls_partition(of_day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name text := 'llm_calls_' || to_char(of_day, 'YYYYMMDD');
BEGIN
    IF to_regclass(quote_ident(name)) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('llm-proxy llm_calls partitions'));
    IF to_regclass(quote_ident(name)) IS NOT NULL THEN
        RETURN;
    END IF;
    LOCK TABLE llm_calls_other IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE llm_calls INCLUDING DEFAULTS)', name);
    EXECUTE format(
        'WITH strays AS (DELETE FROM llm_calls_other WHERE call_id >= %L AND call_id < %L RETURNING *)'
        ' INSERT INTO %I SELECT * FROM strays',
        first_id_of(of_day), first_id_of(of_day + 1), name
    );
    EXECUTE format(
        'ALTER TABLE llm_calls ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name, first_id_of(of_day), first_id_of(of_day + 1)
    );
END $$;

-- Drops the partitions of days before the given one; returns their names. A busy table is left for next time.
CREATE FUNCTION llm_calls_retire(before date) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name text;
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'llm_calls'::regclass
          AND c.relname ~ '^llm_calls_\d{8}$' AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        RETURN NEXT name;
    END LOOP;
END $$;

-- Forgets rows of tables that are not partitioned, at most so many of each; returns how many. Hours are kept for
-- 35 days (days and users stay), refusals for 14. Nothing is done while another worker does it.
CREATE FUNCTION retire_batch(today date, calls_before date, payloads_before date, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    kept    record;
    deleted bigint;
    total   bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('llm-proxy retirement')) THEN
        RETURN 0;
    END IF;
    FOR kept IN VALUES
        ('usage_hourly', 'hour', today - 35),
        ('refusals', 'refused_at', today - 14),
        ('llm_calls_other', 'started_at', calls_before),
        ('payloads', 'started_at', payloads_before)
    LOOP
        EXECUTE format(
            'DELETE FROM %1$I WHERE ctid = ANY(ARRAY('
            'SELECT ctid FROM %1$I WHERE %2$I < $1::timestamp AT TIME ZONE ''UTC'' LIMIT $2))',
            kept.column1, kept.column2
        ) USING kept.column3, most;
        GET DIAGNOSTICS deleted = ROW_COUNT;
        total := total + deleted;
    END LOOP;
    RETURN total;
END $$;

-- Takes the newest rows that were written before over into llm_calls; drops the old table when it is empty.
CREATE FUNCTION move_llm_calls(most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    names text;
    until timestamptz := coalesce((SELECT reached FROM schema_work WHERE name = 'move_llm_calls'), 'infinity');
    place tid[];
    moved bigint;
    day   date;
    since timestamptz;
BEGIN
    IF to_regclass('llm_calls_before') IS NULL THEN
        RETURN 0;
    END IF;
    SELECT array_agg(ctid), min(started_at) INTO place, since FROM (
        SELECT ctid, started_at FROM llm_calls_before WHERE started_at <= until
        ORDER BY started_at DESC LIMIT most) AS newest;
    IF place IS NULL THEN
        DROP TABLE llm_calls_before;
        RETURN 0;
    END IF;
    FOR day IN SELECT DISTINCT day_of_id(call_id) FROM llm_calls_before WHERE ctid = ANY(place) LOOP
        IF day BETWEEN current_date - 400 AND current_date + 7 THEN
            PERFORM llm_calls_partition(day);
        END IF;
    END LOOP;
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO names
    FROM pg_attribute WHERE attrelid = 'llm_calls_before'::regclass AND attnum > 0 AND NOT attisdropped;
    EXECUTE format(
        'WITH taken AS (DELETE FROM llm_calls_before WHERE ctid = ANY($1) RETURNING %1$s)'
        ' INSERT INTO llm_calls (%1$s) SELECT %1$s FROM taken ON CONFLICT DO NOTHING', names
    ) USING place;
    UPDATE schema_work SET reached = since WHERE name = 'move_llm_calls';
    RETURN cardinality(place);
END $$;

REVOKE EXECUTE ON FUNCTION do_schema_work(integer), llm_calls_partition(date), llm_calls_retire(date),
    retire_batch(date, date, date, integer), move_llm_calls(integer) FROM PUBLIC;

-- A small table is taken over at once.
DO $$
DECLARE
    few constant integer := 20000;
    counted bigint := (SELECT count(*) FROM (SELECT 1 FROM llm_calls_before LIMIT few + 1) AS counted_rows);
BEGIN
    FOR ahead IN 0..7 LOOP
        PERFORM llm_calls_partition((now() AT TIME ZONE 'UTC')::date + ahead);
    END LOOP;
    IF counted > few THEN
        INSERT INTO schema_work (name, rows_total)
        SELECT 'move_llm_calls', greatest(reltuples, counted)::bigint FROM pg_class
        WHERE oid = 'llm_calls_before'::regclass;
    ELSE
        PERFORM move_llm_calls(few + 1);
        DROP TABLE IF EXISTS llm_calls_before;
    END IF;
END $$;
