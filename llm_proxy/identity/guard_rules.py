"""What the loop guard does for a caller: its mode and its thresholds, as rules state them.

Pure. Invariants: a rule is frozen; a field that is None is not set, and keeps the value of the rule below; a
threshold of 0 turns its signal off. Units: seconds, turns, calls, nano-dollars a minute.
"""

from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, is_object
from llm_proxy.money import NANO_PER_USD, nano_to_usd

GuardMode = Literal["off", "observe", "warn", "stop"]
MAX_TURNS = 90
"""The largest threshold: a run's last turns that are kept are a few more."""
MAX_USD_PER_MINUTE = 1_000_000
_COUNTS: dict[str, tuple[int, int]] = {
    "quarantine_s": (1, 86_400 * 7),
    "repeats": (0, MAX_TURNS),
    "cycles": (0, MAX_TURNS),
    "max_period": (2, 16),
    "stalled_turns": (0, MAX_TURNS),
    "burst": (0, MAX_TURNS),
}


@dataclass(frozen=True, slots=True)
class GuardRule:
    """What the guard does for the calls that a rule covers.

    Attributes:
        mode: `observe` only reports what it found, `warn` may add a notice, `stop` rejects and quarantines.
        notice: `warn` adds a notice to the prompt's system text.
        quarantine_s: How long a stopped run stays so.
        repeats: The same step so often in a row.
        cycles: The same order of 2 to `max_period` steps so often.
        stalled_turns: So many turns in which the context grew and hardly a step was new.
        burst: The same prompt so often within five minutes.
        nano_usd_per_minute: What a run may spend in a minute, over the last five.
    """

    mode: GuardMode | None = None
    notice: bool | None = None
    quarantine_s: int | None = None
    repeats: int | None = None
    cycles: int | None = None
    max_period: int | None = None
    stalled_turns: int | None = None
    burst: int | None = None
    nano_usd_per_minute: int | None = None

    def over(self, base: "GuardRule") -> "GuardRule":
        """Returns this rule's values, and those of `base` where it has none."""
        return GuardRule(
            *(getattr(base, one) if (own := getattr(self, one)) is None else own for one in _NAMES)
        )


_NAMES = tuple(one.name for one in fields(GuardRule))


def parse_guard_rule(given: object) -> GuardRule | None:
    """Parses the field `loop_guard` of a limit policy: an object, or the mode alone; raises `BadRequest`.

    An object that sets nothing is no rule.
    """
    if given is None:
        return None
    if isinstance(given, str):
        given = {"mode": given}
    if not is_object(given):
        raise _invalid("", f"one of {', '.join(get_args(GuardMode))}, or an object")
    for name in given:
        if name not in {"mode", "notice", "usd_per_minute", *_COUNTS}:
            raise BadRequest(f"Unknown field {name[:100]!r}.", param=f"loop_guard.{name[:100]}")
    mode, notice = given.get("mode"), given.get("notice")
    if mode is not None and mode not in get_args(GuardMode):
        raise _invalid("mode", f"one of {', '.join(get_args(GuardMode))}")
    if notice is not None and not isinstance(notice, bool):
        raise _invalid("notice", "true or false")
    counts = {name: _count(given.get(name), name, *bounds) for name, bounds in _COUNTS.items()}
    usd = _usd(given.get("usd_per_minute"))
    rule = GuardRule(mode=mode, notice=notice, nano_usd_per_minute=usd, **counts)
    return rule if rule != GuardRule() else None


def guard_document(rule: GuardRule | None) -> Json | None:
    """Returns a rule as the field `loop_guard` of a document, with the values it sets."""
    if rule is None:
        return None
    stated = {one: getattr(rule, one) for one in ("mode", "notice", *_COUNTS)}
    if rule.nano_usd_per_minute is not None:
        stated["usd_per_minute"] = f"{nano_to_usd(rule.nano_usd_per_minute):f}"
    return {name: value for name, value in stated.items() if value is not None}


def _invalid(field: str, expected: str) -> BadRequest:
    path = f"loop_guard.{field}" if field else "loop_guard"
    return BadRequest(f"Invalid '{path}': expected {expected}.", param=path)


def _count(value: Any, name: str, least: int, most: int) -> int | None:  # noqa: ANN401 -- unchecked JSON
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _invalid(name, f"a whole number from {least} to {most}")
    return value


def _usd(value: Any) -> int | None:  # noqa: ANN401 -- unchecked JSON
    if value is None:
        return None
    try:
        usd = Decimal(str(value)) if not isinstance(value, bool) else Decimal(-1)
    except InvalidOperation:
        usd = Decimal(-1)
    if not usd.is_finite() or not 0 <= usd <= MAX_USD_PER_MINUTE:
        raise _invalid("usd_per_minute", f"US dollars from 0 to {MAX_USD_PER_MINUTE}")
    return int(usd * NANO_PER_USD)
