"""Prints the page of `llm-proxy doctor` from its tables: `python scripts/doctor_page.py > docs/doctor.md`."""

import re

from llm_proxy.cli.doctor.examine import CHECKS
from llm_proxy.cli.doctor.kinds import KINDS
from llm_proxy.cli.doctor.releases import known_releases

HEAD = """\
# Doctor

`llm-proxy doctor` examines an installation and shows what is wrong, why it matters, and how to fix it. It
changes nothing, calls no model unless `--check-providers` is given, prints no secret, and ends within ten
seconds, whatever is down.

<!-- not run: findings depend on the machine; tests/stages/cli/test_doctor.py runs its checks -->
```sh
llm-proxy doctor                                      # beside `llm-proxy up`, in its folder
docker compose exec llm-proxy /app/.venv/bin/python -m llm_proxy doctor
kubectl exec deployment/NAME-gateway -- /app/.venv/bin/python -m llm_proxy doctor
llm-proxy doctor --only secrets --only config         # on compose's host: files that no container sees
llm-proxy doctor --public-url https://llm.example.com # also what the proxy in front passes on
llm-proxy doctor --json                               # one document: checks, findings, not_checked
llm-proxy doctor --check-providers                    # one small call of each model group: it can cost money
```

It reads the settings as a gateway started there would, and the state files of this folder's stack. In
a container it sees what that container sees: settings, stores, sidecars, spool, limits of the gateway's
process.

| exit code | meaning |
|---|---|
| 0 | nothing found |
| 1 | findings |
| 2 | wrong input |
| 3 | nothing found, but something could not be examined |

| result of a check | meaning |
|---|---|
| `ok` | everything was examined, and is in order |
| `partly` | what was examined is in order; the rest could not be examined |
| `skipped` | there is nothing to examine (no such store, or the check was not requested) |
| `unknown` | the check took too long, or a right is missing |

The reason stands beside each result. Doctor cannot see the disk of a Postgres elsewhere, published ports of
other containers, and firewalls: monitor them by other means.

A remedy that begins with SQL is for `psql`, one with CONFIG for `valkey-cli` or `redis-cli` of that store.

Its probes with a wrong key are counted as rejected credentials, two for each gateway.

## Checks

| check | looks at |
|---|---|
"""

FINDINGS = """
## Findings

| code | check | severity | when | why it matters | how to fix it |
|---|---|---|---|---|---|
"""

RELEASES = """
## Releases

As of {as_of}. Releases of LiteLLM that were published with malicious code (1.82.7, 1.82.8, 1.107.*) are
critical whatever is in this table. It comes with each version of the gateway:
`llm_proxy/cli/doctor/known_releases.json` (`llm_proxy/sidecar/verify_environment.py` has the malicious ones).

| product | fixed in | advisory | date | what |
|---|---|---|---|---|
"""


def _mend(text: str) -> str:
    """What is filled in, as a name in capitals."""
    return re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), text)


def main() -> None:
    """Prints the page."""
    print(HEAD, end="")
    for check in CHECKS:
        print(f"| `{check.name}` | {check.about} |")
    print(FINDINGS, end="")
    for code, kind in KINDS.items():
        cells = (f"`{code}`", kind.check, kind.severity, kind.when, kind.why, _mend(kind.mend))
        print(f"| {' | '.join(cells)} |")
    known = known_releases()
    print(RELEASES.format(as_of=known["as_of"]), end="")
    for one in known["vulnerable"]:
        fixed = ", ".join(one["fixed"])
        print(
            f"| {one['product']} | {fixed} | [{one['id']}]({one['source']}) | {one['date']} | {one['what']} |"
        )
    print("\nSupport ends:", end="")
    for one in known["supported"]:
        print(
            f" {one['product']} " + ", ".join(f"{line} {end}" for line, end in one["lines"].items()), end=";"
        )
    print(" sources: " + ", ".join(one["source"] for one in known["supported"]) + ".")


if __name__ == "__main__":
    main()
