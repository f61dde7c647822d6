"""Every metric there is: its name, kind, help, labels and buckets.

Pure. Invariants: what is not in `METRICS` is not exported, and alert rules and dashboards name nothing else
(a test holds them to it). Units: as in the name; money is counted in nano-dollars and shown in dollars.
Source: https://prometheus.io/docs/practices/naming/
"""

# ruff: noqa: E501 -- one metric, one line

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        merge: How the gauges of several workers make one.
        scale: What a counted unit is worth in the unit shown.
    """

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"
    scale: float = 1.0


_P = "llm_proxy_"
# fmt: off
METRICS: dict[str, Metric] = {
    _P + "requests_total": Metric("counter", "Admitted calls that ended.", ("door", "model", "provider", "outcome", "status")),
    _P + "refusals_total": Metric("counter", "Requests answered with an error of ours before a call.", ("code",)),
    _P + "would_refuse_total": Metric("counter", "Admitted calls that a limit in shadow mode would have refused.", ("scope", "kind")),
    _P + "request_seconds": Metric("histogram", "From reading the request to its last byte.", ("door", "streamed"), SECONDS),
    _P + "ttft_seconds": Metric("histogram", "From reading the request to the first byte of the answer.", ("door", "streamed"), SECONDS),
    _P + "overhead_seconds": Metric("histogram", "Time in the gateway itself, without the sidecar.", ("door",), OVERHEAD_SECONDS),
    _P + "tokens_total": Metric("counter", "Tokens, cached and reasoning ones counted within theirs too.", ("model", "kind")),
    _P + "cost_usd_total": Metric("counter", "Cost of admitted calls, where known.", ("model", "provider"), scale=1e-9),
    _P + "unpriced_total": Metric("counter", "Calls that were answered, or used tokens, and whose cost is not known.", ("model",)),
    _P + "cache_total": Metric("counter", "Answers by what the response cache said.", ("state",)),
    _P + "fallbacks_total": Metric("counter", "Calls answered by another model group than the one asked.", ("asked", "served")),
    _P + "provider_auth_failures_total": Metric("counter", "Calls for which a provider refused the gateway's credentials, whatever answered in the end.", ("deployment",)),
    _P + "agent_requests_total": Metric("counter", "Admitted calls of registered agents.", ("agent",)),
    _P + "agent_tokens_total": Metric("counter", "Tokens of registered agents.", ("agent",)),
    _P + "agent_cost_usd_total": Metric("counter", "Cost of registered agents, where known.", ("agent",), scale=1e-9),
    _P + "tag_requests_total": Metric("counter", "Admitted calls with a tag that METRICS_TAGS names; one with several counts for each.", ("tag",)),
    _P + "tag_tokens_total": Metric("counter", "Tokens of these calls.", ("tag",)),
    _P + "tag_cost_usd_total": Metric("counter", "Cost of these calls, where known.", ("tag",), scale=1e-9),
    _P + "in_flight": Metric("gauge", "Admitted calls running now."),
    _P + "waiting": Metric("gauge", "Calls waiting for their turn."),
    _P + "workers": Metric("gauge", "Gateway workers alive."),
    _P + "draining": Metric("gauge", "1 while this gateway is shutting down.", merge="max"),
    _P + "store_up": Metric("gauge", "1 while the store answers (postgres, limits).", ("store",), merge="min"),
    _P + "store_seconds": Metric("histogram", "Time of a call to a store.", ("store",), OVERHEAD_SECONDS),
    _P + "store_failures_total": Metric("counter", "Calls to a store that failed or ran out of time.", ("store",)),
    _P + "sidecars": Metric("gauge", "Sidecars by state (live, away, ejected, unknown), as the worker that counts most sees them.", ("state",), merge="max"),
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
    _P + "notifications_total": Metric("counter", "Notifications raised, and attempts to deliver them by result (delivered, failed, given_up).", ("result",)),
    _P + "traces_dropped_total": Metric("counter", "Spans not delivered."),
    _P + "build_info": Metric("gauge", "1, labelled with the version.", ("version",), merge="max"),
}
# fmt: on


def width(metric: Metric) -> int:
    """Numbers one series takes: buckets, the one above them, and the sum; or one."""
    return len(metric.buckets) + 2 if metric.kind == "histogram" else 1
