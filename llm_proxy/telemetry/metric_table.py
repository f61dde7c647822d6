"""All metrics of `/metrics`, by name: kind, what each says, labels, buckets. Units: seconds, bytes, US dollars."""

# ruff: noqa: E501 -- one metric, one line

from dataclasses import dataclass
from typing import Literal

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        kind: A `reading` is a gauge that one worker reads for all, and that is absent while it is unknown.
        mode: How the gauges of the living workers are combined.
    """

    kind: Literal["counter", "gauge", "histogram", "reading"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    mode: Literal["livesum", "livemax", "livemin"] = "livesum"


_P = "llm_proxy_"
# fmt: off
METRICS: dict[str, Metric] = {
    _P + "requests_total": Metric("counter", "Admitted calls that ended.", ("door", "model", "provider", "outcome", "status")),
    _P + "refusals_total": Metric("counter", "Requests that the gateway answered with an error before a call.", ("code",)),
    _P + "failures_total": Metric("counter", "Requests that failed by the gateway's or a sidecar's fault; `admitted` ones are calls, too.", ("code", "admitted")),
    _P + "would_refuse_total": Metric("counter", "Admitted calls that a limit in shadow mode would have rejected.", ("scope", "kind")),
    _P + "loops_total": Metric("counter", "Calls of runs that repeat themselves, by what the loop guard did and found.", ("action", "signal")),
    _P + "request_seconds": Metric("histogram", "From reading the request to its last byte.", ("door", "streamed"), SECONDS),
    _P + "ttft_seconds": Metric("histogram", "From reading the request to the first byte of the answer.", ("door", "streamed"), SECONDS),
    _P + "queue_seconds": Metric("histogram", "Time in the queue for a slot at a sidecar, of calls that waited there.", (), SECONDS),
    _P + "overhead_seconds": Metric("histogram", "Time in the gateway itself, without the sidecar.", ("door",), OVERHEAD_SECONDS),
    _P + "tokens_total": Metric("counter", "Tokens, cached and reasoning ones counted within theirs too.", ("model", "kind")),
    _P + "quantities_total": Metric("counter", "What calls of images, audio and reranking used beside tokens.", ("model", "kind")),
    _P + "cost_usd_total": Metric("counter", "Cost of admitted calls, where known.", ("model", "provider")),
    _P + "unpriced_total": Metric("counter", "Calls that were answered, or used anything, and whose cost is not known.", ("model",)),
    _P + "idempotent_requests_total": Metric("counter", "Requests with an Idempotency-Key: `first`, `replayed`, or the code of the error.", ("result",)),
    _P + "cache_total": Metric("counter", "Answers by the result of the response cache.", ("state",)),
    _P + "fallbacks_total": Metric("counter", "Calls answered by another model group than the one requested.", ("asked", "served")),
    _P + "provider_auth_failures_total": Metric("counter", "Calls for which a provider rejected the credentials of this installation, whatever answered in the end.", ("deployment",)),
    _P + "agent_requests_total": Metric("counter", "Admitted calls of registered agents.", ("agent",)),
    _P + "agent_tokens_total": Metric("counter", "Tokens of registered agents.", ("agent",)),
    _P + "agent_cost_usd_total": Metric("counter", "Cost of registered agents, where known.", ("agent",)),
    _P + "tag_requests_total": Metric("counter", "Admitted calls with a tag that METRICS_TAGS names; one with several counts for each.", ("tag",)),
    _P + "tag_tokens_total": Metric("counter", "Tokens of these calls.", ("tag",)),
    _P + "tag_cost_usd_total": Metric("counter", "Cost of these calls, where known.", ("tag",)),
    _P + "in_flight": Metric("gauge", "Admitted calls running now."),
    _P + "waiting": Metric("gauge", "Calls waiting for a concurrency slot."),
    _P + "workers": Metric("gauge", "Gateway workers alive."),
    _P + "draining": Metric("gauge", "1 while this gateway is shutting down.", mode="livemax"),
    _P + "store_up": Metric("gauge", "1 while the store answers (postgres, limits, answers).", ("store",), mode="livemin"),
    _P + "store_seconds": Metric("histogram", "Time of a call to a store.", ("store",), OVERHEAD_SECONDS),
    _P + "store_failures_total": Metric("counter", "Calls to a store that failed or ran out of time.", ("store",)),
    _P + "sidecars": Metric("gauge", "Sidecars by state (live, away, ejected, unknown), as the worker that counts most sees them.", ("state",), mode="livemax"),
    _P + "sidecar_exits_total": Metric("counter", "Sidecars that drained by themselves (left), ended or froze (lost), or made room for new ones (replaced), as each worker counts them.", ("how",)),
    _P + "upstream_in_flight": Metric("gauge", "Calls running at sidecars."),
    _P + "upstream_failures_total": Metric("counter", "Calls that no sidecar could be given, or that broke there.", ("code",)),
    _P + "ledger_queue_records": Metric("gauge", "Records on their way to Postgres or the spool."),
    _P + "ledger_written_total": Metric("counter", "Records kept, by where they went first.", ("to",)),
    _P + "ledger_replayed_total": Metric("counter", "Records taken from the spool into Postgres."),
    _P + "ledger_recovered_total": Metric("counter", "Records of dead workers found on disk, by what they were.", ("what",)),
    _P + "ledger_dropped_total": Metric("counter", "Records not kept, by cause.", ("cause",)),
    _P + "ledger_write_seconds": Metric("histogram", "Time one batch took to commit.", (), OVERHEAD_SECONDS),
    _P + "ledger_enriched_total": Metric("counter", "Estimates made exact by the sidecar's log."),
    _P + "payloads_dropped_total": Metric("counter", "Prompts and answers to be stored that were not, by cause.", ("cause",)),
    _P + "spool_bytes": Metric("gauge", "Bytes of records waiting on disk."),
    _P + "spool_records": Metric("gauge", "Records waiting on disk."),
    _P + "background_failures_total": Metric("counter", "Steps of background work that failed unexpectedly; the work goes on.", ("loop",)),
    _P + "old_secret_uses_total": Metric("counter", "Uses of old values of a secret, by setting; 0 while only the newest is used.", ("setting",)),
    _P + "notifications_total": Metric("counter", "Notifications raised, and attempts to deliver them by result (delivered, failed, given_up).", ("result",)),
    _P + "traces_dropped_total": Metric("counter", "Spans not delivered."),
    _P + "build_info": Metric("gauge", "1, labelled with the version.", ("version",), mode="livemax"),
    _P + "store_facts_up": Metric("reading", "1 while the store reports its state (postgres, limits, cache); 0: the series below that are its are absent.", ("store",)),
    _P + "redis_used_bytes": Metric("reading", "Memory that the Redis uses.", ("store",)),
    _P + "redis_max_bytes": Metric("reading", "Its `maxmemory`; absent without one.", ("store",)),
    _P + "redis_evicted_keys": Metric("reading", "Keys that it has evicted since its start.", ("store",)),
    _P + "postgres_connections": Metric("reading", "Connections to the server that clients use, of all its databases."),
    _P + "postgres_connections_max": Metric("reading", "Connections that clients may use."),
    _P + "postgres_database_bytes": Metric("reading", "Size of the database."),
    _P + "postgres_table_bytes": Metric("reading", "Size of the largest tables, with their indexes and partitions.", ("table",)),
    _P + "postgres_partition_days_ahead": Metric("reading", "Days after today that have partitions, of `requests` or `llm_calls`, whichever has fewer; -1: not even today."),
    _P + "postgres_oldest_transaction_seconds": Metric("reading", "Age of the oldest transaction."),
    _P + "last_backup_timestamp_seconds": Metric("reading", "When the last good backup ended."),
    _P + "certificate_not_after_timestamp_seconds": Metric("reading", "When the TLS certificate of a peer expires (postgres, limits, cache, sidecar, console).", ("peer",)),
    _P + "tenant_spend_usd": Metric("reading", "Known cost of the tenants with the highest cost in this hour (UTC) so far, and in the last.", ("tenant", "hour")),
    _P + "tenant_usual_spend_usd": Metric("reading", "The most that such a tenant spent in the same hour of the seven days before.", ("tenant", "hour")),
}
# fmt: on
