"""Agents that loop: eight kinds, and three more that evade a guard which keeps no text."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Literal

from traces.healthy import Agent, words
from traces.wires import Step

LoopKind = Literal[
    "same call", "same error", "two steps", "longer cycle", "evasive arguments", "nudged", "same prompt",
    "wandering", "spending", "counted arguments", "other words", "counting results",
]  # fmt: skip


def same_call(agent: Agent) -> Iterator[Step]:
    """The same call with the same result; the model's words differ."""
    name, field = agent.rng.choice([agent.trade.read, agent.trade.search])
    what, result = words(agent.rng, 3), words(agent.rng, agent.rng.choice([2, 30, 400]))
    while True:
        yield agent.step(name, {field: what, "limit": 5}, result)


def same_error(agent: Agent) -> Iterator[Step]:
    """The same call fails in the same way; the error names a new request and a new time."""
    tool, command = agent.trade.run
    second = agent.rng.randint(1, 20)
    while True:
        second = second % 58 + 1
        at = f"2026-11-27T08:{agent.rng.randint(10, 59)}:{second:02}.{agent.rng.randint(100, 999)}Z"
        text = f"{at} ERROR request req_{agent.rng.getrandbits(64):016x} timed out after 30.{second:02} s"
        yield agent.step(tool, {"command": command}, text)


def two_steps(agent: Agent) -> Iterator[Step]:
    """One step undoes the other."""
    path, before, after = f"{words(agent.rng, 1)}.py", words(agent.rng, 4), words(agent.rng, 4)
    while True:
        yield agent.step(agent.trade.change, {"at": path, "old": before, "new": after}, agent.trade.done)
        yield agent.step(agent.trade.change, {"at": path, "old": after, "new": before}, agent.trade.done)


def longer_cycle(agent: Agent) -> Iterator[Step]:
    """Three to five steps, over and over."""
    rng, (name, field) = agent.rng, agent.trade.read
    whole = [(name, {field: words(rng, 2)}, words(rng, 25)) for _ in range(rng.randint(3, 5))]
    while True:
        for one in whole:
            yield agent.step(*one)


def evasive_arguments(agent: Agent) -> Iterator[Step]:
    """The same call, but for an argument that changes by itself."""
    rng, (name, field) = agent.rng, agent.trade.read
    what, result, count = words(rng, 3), words(rng, 20), 0
    way = rng.choice(["attempt", "timestamp", "nonce", "epoch", "order"])
    while True:
        count += 1
        args: dict[str, object] = {field: what}
        match way:
            case "attempt":
                args["attempt"] = count
            case "timestamp":
                args["requested"] = f"2026-11-27T08:{rng.randint(10, 59)}:{rng.randint(1, 59):02}Z"
            case "nonce":
                args["request_id"] = f"{rng.getrandbits(64):016x}"
            case "epoch":
                args["since"] = 1_795_000_000 + count * 7
            case _:
                args = (
                    {field: f"{what}{' ' * rng.randint(0, 3)}", "limit": 5}
                    if count % 2
                    else {"limit": 5, field: what}
                )
        yield agent.step(name, args, result)


def nudged(agent: Agent) -> Iterator[Step]:
    """A harness tells the model to go on, and it says the same again."""
    said = words(agent.rng, 20)
    while True:
        yield Step(said, asked="Please continue.")


def same_prompt(agent: Agent) -> Iterator[Step]:
    """The same prompt is sent again and again, each time as a new conversation."""
    while True:
        yield Step(agent.thought())


def wandering(agent: Agent) -> Iterator[Step]:
    """Three steps in no order."""
    rng, (name, field) = agent.rng, agent.trade.read
    known = [(name, {field: words(rng, 2)}, words(rng, 25)) for _ in range(3)]
    while True:
        yield agent.step(*rng.choice(known))


def spending(agent: Agent) -> Iterator[Step]:
    """Every step is new, and each costs dollars."""
    rng, (name, field) = agent.rng, agent.trade.read
    while True:
        what = f"{words(rng, 2)} {agent.number()}"
        yield Step(agent.thought(), ((name, {field: what}),), (words(rng, 60),), usd=rng.uniform(3, 9))


def counted_arguments(agent: Agent) -> Iterator[Step]:
    """Pages beyond the last one: an ordinary argument counts up, the result stays empty."""
    page = 40
    while True:
        page += 1
        yield agent.step(agent.trade.listing, {"page": page, "size": 10}, '{"ids":[]}')


def other_words(agent: Agent) -> Iterator[Step]:
    """The same search in other words, which finds nothing each time."""
    name, field = agent.trade.search
    while True:
        yield agent.step(name, {field: words(agent.rng, 4)}, "No results found.")


def counting_results(agent: Agent) -> Iterator[Step]:
    """The same call, whose result counts how often it was made."""
    name, field = agent.trade.read
    what, count = words(agent.rng, 3), 0
    while True:
        count += 1
        yield agent.step(name, {field: what}, f"{count} calls so far. Nothing changed.")


LOOPS: dict[LoopKind, Callable[[Agent], Iterator[Step]]] = {
    "same call": same_call, "same error": same_error, "two steps": two_steps, "longer cycle": longer_cycle,
    "evasive arguments": evasive_arguments, "nudged": nudged, "same prompt": same_prompt,
    "wandering": wandering, "spending": spending,
}  # fmt: skip
EVASIONS: dict[LoopKind, Callable[[Agent], Iterator[Step]]] = {
    "counted arguments": counted_arguments, "other words": other_words, "counting results": counting_results,
}  # fmt: skip


def loop_length(rng: Random) -> int:
    """Turns for which an agent loops before it ends."""
    return rng.randint(24, 40)
