"""What a search of requests selects: filters as conditions of two tables; places in its list.

Pure. Invariants: an empty filter is none; a wrong value is rejected by its field's name; only constants of
this module reach the SQL text, values travel as arguments. A rejected request has fewer fields than a call: a
filter on one that it lacks leaves rejections out. Raises: `BadRequest`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, get_args
from uuid import UUID

from llm_proxy.call_context import Outcome
from llm_proxy.errors import BadRequest

_MAX_CHARS = 256
_MAX_NUMBER = Decimal(10**12)
OUTCOMES = (*get_args(Outcome), "rejected", "failed", "refused")
"""`rejected`: not admitted, in rows `refused`, which is accepted too; `failed`: every outcome but `ok`."""
_CAUSE = "concat_ws(':', reached ->> 'scope', reached ->> 'kind')"
_CALLS = {
    "key": "key_id = {}", "tenant": "tenant = {}", "agent": "agent = {}", "user": "user_id = {}",
    "session": "session_id = {}", "run": "(run_id = {0} OR run_name = {0})", "tag": "tags @> ARRAY[{}::text]",
    "model": "{} IN (model_group, group_asked, model)", "provider": "provider = {}", "endpoint": "door = {}",
    "cause": "refusal_code = {} AND outcome <> 'ok'",
    "min_cost": "cost_usd >= {}", "max_cost": "cost_usd <= {}",
    "min_ms": "latency_ms >= {}", "max_ms": "latency_ms <= {}",
}  # fmt: skip
_REJECTIONS = {
    "key": "key_id = {}", "tenant": "tenant = {}", "agent": "agent = {}", "user": "user_id = {}",
    "model": "{} IN (model_group, model)", "endpoint": "door = {}", "run": "run_name = {}",
    "cause": f"{{}} IN (code, {_CAUSE})",
}  # fmt: skip
_NUMBERS = frozenset({"min_cost", "max_cost", "min_ms", "max_ms"})
FILTERS = (*_CALLS, "status", "outcome")
"""The names of all filters."""
_HELP = {
    "key": "A key's name, id or prefix.",
    "model": "The requested model, or the group that was requested or that served.",
    "endpoint": "Only this endpoint, such as `chat.completions`.",
    "status": "A status, or `2xx`, `4xx`, `5xx`; 0: no response was sent.",
    "outcome": "`ok`, `error`, `client_gone`, `cut`, `lost`, `rejected`, or `failed`: all but `ok`.",
    "cause": "The error's code, or `scope:kind` of the limit that rejected it.",
    "min_cost": "Only requests that cost at least this, in dollars.",
    "max_cost": "Only requests that cost at most this, in dollars.",
    "min_ms": "Only requests that took at least this, in milliseconds.",
    "max_ms": "Only requests that took at most this, in milliseconds.",
}
FILTER_HELP: Mapping[str, str] = {name: _HELP.get(name, f"Only this {name}.") for name in FILTERS}
"""By name what a filter selects, for readers of the API and of the command."""
_STATUSES = {"2xx": (200, 299), "4xx": (400, 499), "5xx": (500, 599), "0": (0, 0)}
_FAILED_STATUS = 400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)


class Position(NamedTuple):
    """A place in the list, newest first: what comes after it is older, or as old with a smaller id."""

    at: datetime
    request_id: UUID

    def __str__(self) -> str:
        """Returns its text for a link."""
        return f"{(self.at - _EPOCH) // timedelta(microseconds=1)}-{self.request_id.hex}"


def before(at: datetime) -> Position:
    """Returns the place after which all rows are older than a time."""
    return Position(at, FIRST_ID)


def parse_position(text: str, param: str = "after") -> Position:
    """Parses the text of a place; raises `BadRequest`."""
    micros, _, hexadecimal = text.partition("-")
    try:
        return Position(_EPOCH + timedelta(microseconds=int(micros[:20])), UUID(hexadecimal))
    except (ValueError, OverflowError):
        raise BadRequest("This is not a position in a list of requests.", param=param) from None


@dataclass(frozen=True, slots=True)
class RequestFilters:
    """Selects requests.

    Attributes:
        values: By name of `_CALLS`: the text, or the number of a bound.
        statuses: The lowest and the highest status; None for any.
        outcome: One of `OUTCOMES`; None for any.
    """

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    statuses: tuple[int, int] | None = None
    outcome: str | None = None

    @property
    def with_calls(self) -> bool:
        """Whether admitted calls can be selected."""
        return self.outcome != "refused"

    @property
    def with_rejections(self) -> bool:
        """Whether rejected requests can be selected."""
        return self.outcome in {None, "refused", "failed"} and self.values.keys() <= _REJECTIONS.keys()

    def require_rejections(self) -> None:
        """Raises `BadRequest` for a filter that rejected requests do not have."""
        unknown = next((name for name in self.values if name not in _REJECTIONS), None)
        if unknown is not None:
            raise BadRequest(f"Rejected requests cannot be filtered by '{unknown}'.", param=unknown)

    def of_calls(self, argument: Callable[[Any], str]) -> list[str]:
        """Returns the conditions of `requests`; `argument` takes a value and returns its place."""
        conditions = self._conditions(_CALLS, argument)
        if self.statuses is not None and self.statuses[0] >= _FAILED_STATUS:
            conditions.append("outcome <> 'ok'")  # selects no less, but lets an index of failed calls serve
        if self.outcome == "failed":
            conditions.append("outcome <> 'ok'")
        elif self.outcome is not None:
            conditions.append(f"outcome = {argument(self.outcome)}")
        return conditions

    def of_rejections(self, argument: Callable[[Any], str]) -> list[str]:
        """Returns the conditions of `refusals`; as `of_calls`."""
        return self._conditions(_REJECTIONS, argument)

    def _conditions(self, columns: Mapping[str, str], argument: Callable[[Any], str]) -> list[str]:
        conditions = [columns[name].format(argument(value)) for name, value in self.values.items()]
        if self.statuses is not None:
            low, high = map(argument, self.statuses)
            conditions.append(f"status BETWEEN {low} AND {high}")
        return conditions


NO_FILTERS = RequestFilters()


def parse_filters(given: Iterable[tuple[str, str]]) -> RequestFilters:
    """Parses filters by name; raises `BadRequest` for an unknown or repeated name, or a wrong value."""
    values: dict[str, Any] = {}
    statuses: tuple[int, int] | None = None
    outcome: str | None = None
    names: set[str] = set()
    for name, raw in given:
        text = raw.strip()
        if name not in FILTERS:
            raise BadRequest(f"Unknown filter or parameter: '{name[:40]}'.", param=name[:40])
        if name in names:
            raise BadRequest(f"'{name}' is given twice.", param=name)
        names.add(name)
        if len(text) > _MAX_CHARS or "\0" in text:
            raise BadRequest(f"'{name}' is too long, or holds a NUL character.", param=name)
        if not text:
            continue
        if name == "status":
            statuses = _parse_status(text)
        elif name == "outcome":
            if text not in OUTCOMES:
                raise BadRequest(f"An outcome is one of {', '.join(OUTCOMES)}.", param=name)
            outcome = "refused" if text == "rejected" else text
        else:
            values[name] = _parse_number(name, text) if name in _NUMBERS else text
    return RequestFilters(values, statuses, outcome)


def _parse_status(text: str) -> tuple[int, int]:
    found = _STATUSES.get(text.lower())
    if found is None and text.isascii() and text.isdecimal() and len(text) == 3:
        found = int(text), int(text)
    if found is None:
        raise BadRequest("A status is a number such as 429, or 2xx, 4xx, 5xx.", param="status")
    return found


def _parse_number(name: str, text: str) -> Decimal | float:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal(-1)
    if not number.is_finite() or not 0 <= number <= _MAX_NUMBER:
        raise BadRequest(f"'{name}' must be a number that is not negative.", param=name)
    return number if name.endswith("_cost") else float(number)
