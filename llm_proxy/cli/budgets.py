"""Budgets as the command line writes them: `5/day`, `1000requests/day`, `2000000tokens/month@Europe/Berlin`.

Pure. Invariant: what `words` writes, `parsed` reads.
"""

import re
from typing import get_args

from llm_proxy.identity.caller import Period, Unit
from llm_proxy.json_access import Json

FORM = "AMOUNT/PERIOD"
EXAMPLES = "5/day, 100/month or 1000/total (US dollars), 1000requests/day, 5/day@Europe/Berlin"
_COUNTED = "|".join(unit for unit in get_args(Unit) if unit != "usd")
_BUDGET = re.compile(
    r"\$?(?P<amount>[0-9]{1,20}(?:\.[0-9]{1,40})?)"
    rf"(?P<unit>{_COUNTED})?"
    rf"/(?P<period>{'|'.join(get_args(Period))})(?:@(?P<zone>[A-Za-z0-9_/+-]+))?"
)


def parsed(text: str) -> Json | None:
    """A budget's document; None for anything else."""
    found = _BUDGET.fullmatch(text)
    if found is None:
        return None
    unit, amount = found["unit"], found["amount"]
    if unit and "." in amount:
        return None
    limit: Json = {f"limit_{unit}": int(amount)} if unit else {"limit_usd": amount}
    return limit | {"period": found["period"]} | ({"zone": found["zone"]} if found["zone"] else {})


def words(budget: Json) -> str:
    """A budget's document as it is written."""
    zone = f"@{budget['zone']}" if budget.get("zone") else ""
    amount = f"${budget['limit_usd']}" if "limit_usd" in budget else ""
    for unit in ("requests", "tokens"):
        if f"limit_{unit}" in budget:
            amount = f"{budget[f'limit_{unit}']}{unit}"
    return f"{amount}/{budget['period']}{zone}"
