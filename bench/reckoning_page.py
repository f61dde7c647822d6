"""A reckoning in words: the page of the docs. Pure."""

from typing import Any

from bench.reckoning_budgets import lines
from bench.reckoning_models import MODELS
from bench.words import table

Json = dict[str, Any]
_NAMES = ("prompt_tokens", "completion_tokens", "nano_usd")
MENDED = """## What earlier reckonings found, mended since

* A float's sixteenth digit, rounded up, made 5 of the first 59 calls a nano-dollar too dear.
* `llm-proxy reconcile --json` failed on the first difference it found.
* Streams cut short were counted by frames, 97 tokens for 315; now by their text as well.
* A provider that states no tokens was recorded as one that stated zero, in the sidecar's log too.
* In one run of 5,000 calls the sidecar's log ended for good when Postgres died between two messages of its
  connection: 1,269 rows of enrichment missing. The gateways' records were whole all the same.
"""
_HEAD = ("kind", "source", "calls", "prompt", "completion", "cost")


def page(found: Json) -> str:
    """`docs/reckoning.md`."""
    return f"""# Every token and every nano-dollar

`make reckoning CALLS={found["calls"]}` makes {found["calls"]} calls ({found["streams"]} of them streams)
through two gateways and {found["sidecars"]} real LiteLLM, with a real Postgres and two real Valkeys, before
a scripted provider that states tokens of its own and remembers every call. Postgres is killed (SIGKILL)
{found["kills_of_postgres"]} times in between, and stays away for some seconds. Afterwards four books are
compared call by call, by a mark each call carries in its prompt and as `X-Request-Id`: what its caller got,
what the provider said, the gateways' `requests`, the sidecar's `llm_calls`. Raw figures:
[`reckoning.json`](reckoning.json).

The model groups speak OpenAI's wire, Anthropic's, Google's, Ollama's, that of an OpenAI-compatible server,
of text completions and of embeddings; each has prices of its own.

{_findings(found)}
{_inexact(found)}
{_logs(found)}
{MENDED}
## Conditions

{found["seconds"]} s of {found["at_once"]} callers at once on a machine of {found["cores"]} cores shared
with other work (load {found["load"]:.1f}); seed {found["seed"]}.
"""


def _findings(found: Json) -> str:
    kinds = [(name, *counts) for name, counts in sorted(found["kinds"].items())]
    groups = [(name, MODELS[name].provider, *counts) for name, counts in sorted(found["groups"].items())]
    rules = "\n".join(f"* {count}: {rule}" for rule, count in found["by_rule"].items()) or "None."
    budgets = "\n".join(lines(found["budgets"]))
    notes = "\n".join(f"* {count}: {note}" for note, count in sorted(found["notes"].items()))
    return f"""## What was found

Rules that were broken ({found["findings"]}):

{rules}

Budgets lie at every scope while the calls are made. Afterwards each holds what the provider's own
statements cost, to the nano-dollar, and nothing is held by a call that ended; `global` and `provider` refuse
at what was used. One tenant's budget does not suffice, another's callers all leave.

{budgets}

The rules: one record for each admitted call and none for another; its outcome, status, request id, group,
provider, deployment, attempts and cache state are what happened. Where a record says `usage_source=provider`,
prompt, completion, cached, cache-write and reasoning tokens and the service tier are the provider's own and
the cost is the price list's, to the token and the nano-dollar (worked out in decimals from the configured
prices, those of tokens read from a cache, written to it for five minutes or an hour, and of service tiers
too, rounded up once). An answer whose provider stated its tokens has no other source. The sidecar's log
tells the same of it.

{found["exact"]} records are exact; {found["inexact"]} cannot be. {found["records"]} records in all, the last
of them and of the log {found["caught_up_s"]} s after the last call ended; {found["strangers"]} of calls
nobody made.

{table(("kind", "calls", "exact"), kinds)}

{table(("group", "LiteLLM's provider", "calls", "exact"), groups)}

Of note, calls that left no record among them:

{notes}
"""


def _inexact(found: Json) -> str:
    return f"""## What is not exact, and by how much

The provider never stated the tokens of these: streams that were cut, callers who left, errors, servers that
do not count. Truth is what the prompt holds and the frames the provider sent hold, by a real tokenizer.
`estimated` is the gateway's own guess, four bytes a token; `sidecar` is LiteLLM's count, stated in the stream
of a server that states none or taken over from its log; `unknown` claims nothing, the truth stands in
brackets. Cost is in nano-dollars.

{table(_HEAD, [_error(one) for one in found["errors"]])}

After `llm-proxy reconcile --apply`, which takes over whatever LiteLLM counted:

{table(_HEAD, [_error(one) for one in found["errors_after"]])}
"""


def _logs(found: Json) -> str:
    role, again = found["role"], found["reconciled"]
    listed = "\n".join(f"* {count}: {what}" for what, count in again["by_kind"].items()) or "Nothing."
    return f"""## The two logs

`llm-proxy reconcile` lists {again["differences"]} differences between the gateways' records and the
sidecar's log and ends with {again["exit_code"]}; {len(again["unexplained"])} of them are not explained by
an estimate. `--apply` made {again["enriched"]} records exact by the log; {again["left"]} differences were
left.

{listed}

The log has {found["log_rows"]} rows, written as `{role["name"]}`, who may {", ".join(role["may"])} and
nothing else on the tables that matter.
"""


def _error(one: Json) -> tuple[object, ...]:
    return one["kind"], one["source"], one["calls"], *(_off(one[name]) for name in _NAMES)


def _off(figure: Json) -> str:
    if not figure["known"]:
        return f"unknown ({figure['missed']})" if figure.get("missed") else "unknown"
    said, truth = figure["said"], figure["truth"]
    off = f" ({(said - truth) / truth:+.0%})" if truth else ""
    return f"{said} for {truth}{off}"
