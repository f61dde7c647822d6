"""Episodes of healthy work that look like loops, for agents of several trades."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from llm_proxy.json_access import Json
from traces.wires import Step

_WORDS = (  # noqa: SIM905 -- a list of its own lines would be long
    "order client parser index module latency window handler session budget stream retry schema field token "
    "widget release branch invoice shipment sensor route cluster bucket queue worker cache limit record node "
    "alpha beta gamma delta north south river stone cloud lamp paper glass metal wood blue green red black "
    "fails passes returns expects raises writes reads opens closes starts stops waits checks holds moves ends"
).split()


def words(rng: Random, count: int) -> str:
    """A text of so many words."""
    return " ".join(rng.choice(_WORDS) for _ in range(count))


class Trade(NamedTuple):
    """The tools of one kind of agent: what runs, reads, changes, searches, lists and polls."""

    name: str
    run: tuple[str, str]
    read: tuple[str, str]
    change: str
    search: tuple[str, str]
    listing: str
    status: str
    done: str


TRADES = (
    Trade("coding", ("bash", "pytest -q tests/"), ("read_file", "path"), "edit_file", ("grep", "pattern"),
          "list_commits", "BashOutput", "The file has been updated."),
    Trade("research", ("run_python", "analyse()"), ("fetch_page", "url"), "add_note", ("web_search", "q"),
          "search_results", "get_crawl", "Note saved."),
    Trade("support", ("run_macro", "sort"), ("get_ticket", "ticket"), "update_ticket", ("find", "text"),
          "list_tickets", "get_import", '{"ok":true}'),
)  # fmt: skip
"""The agents that thresholds were chosen with."""
HELD_OUT_TRADES = (
    Trade("operations", ("terraform_plan", "-out=plan"), ("kubectl_get", "resource"), "apply_manifest",
          ("logs_query", "expr"), "list_pods", "rollout_status", "configured"),
    Trade("data", ("execute_sql", "select count(*) from f"), ("describe_table", "table"), "write_cell",
          ("vector_search", "text"), "scan_rows", "job_state", "1 row affected"),
    Trade("travel", ("quote", "cheapest"), ("hotel_details", "hotel_id"), "hold_option",
          ("flight_search", "route"), "list_offers", "booking_state", "HELD"),
)  # fmt: skip
"""The agents that were not looked at while thresholds were chosen."""


@dataclass(slots=True)
class Agent:
    """An agent at work: its trade, and what it draws from."""

    trade: Trade
    rng: Random
    known: int = 0

    def number(self) -> int:
        """A number that no step of this run had."""
        self.known += self.rng.randint(1, 9)
        return self.known

    def thought(self) -> str:
        """What a model says beside its calls, which is seldom the same twice."""
        return words(self.rng, self.rng.randint(3, 25)) if self.rng.random() < 0.7 else ""

    def step(self, name: str, args: Json, result: str, **more: float) -> Step:
        """One call of a tool."""
        return Step(self.thought(), ((name, args),), (result,), **more)  # type: ignore[arg-type]  # times and costs


Episode = Callable[[Agent], Iterator[Step]]


def polling(agent: Agent) -> Iterator[Step]:
    """Polls something whose state moves on."""
    job, rng, done = f"job-{agent.number()}", agent.rng, 0
    while done < 100:
        done = min(100, done + rng.randint(2, 12))
        text = rng.choice([f'{{"state":"running","progress":{done}}}', f"{done} of 100 files copied"])
        yield agent.step(agent.trade.status, {"id": job}, text, wait_s=rng.choice([0.3, 2, 10, 30]))


def paced_polling(agent: Agent) -> Iterator[Step]:
    """Polls with pauses something that takes its time: the answer stays the same for a while."""
    job, rng = f"job-{agent.number()}", agent.rng
    for _ in range(rng.randint(4, 14)):
        yield agent.step(agent.trade.status, {"id": job}, '{"state":"running"}', wait_s=rng.uniform(10, 60))
    yield agent.step(agent.trade.status, {"id": job}, f'{{"state":"done","rows":{agent.number()}}}')


def retries(agent: Agent) -> Iterator[Step]:
    """Tries a call again that fails a few times, then goes on."""
    what, rng = f"{words(agent.rng, 2)} {agent.number()}", agent.rng
    name, field = agent.trade.read
    for _ in range(rng.randint(1, 3)):
        yield agent.step(
            name, {field: what}, "Error: 503 Service Unavailable", wait_s=rng.choice([0.5, 1, 2, 4])
        )
    yield agent.step(name, {field: what}, words(rng, 40))


def pagination(agent: Agent) -> Iterator[Step]:
    """Goes through pages by number or cursor, to an empty one."""
    rng, pages, first = agent.rng, agent.rng.randint(5, 25), agent.number() * 1000
    for page in range(pages):
        rows = ",".join(str(first + page * 10 + one) for one in range(10))
        text = f'{{"page":{page},"ids":[{rows}]}}' if rng.random() < 0.7 else words(rng, 30)
        yield agent.step(agent.trade.listing, {"page": page, "size": 10}, text)
    yield agent.step(agent.trade.listing, {"page": pages, "size": 10}, '{"ids":[]}')


def test_and_fix(agent: Agent) -> Iterator[Step]:
    """Runs a check, changes something, runs it again: the output stays much the same until it passes."""
    rng, (tool, command) = agent.rng, agent.trade.run
    failing, name = rng.randint(2, 9), f"{words(agent.rng, 2)} {agent.number()}"
    while failing:
        same_output = rng.random() < 0.5
        output = f"{failing} failed: {name}" if same_output else f"{failing} failed: {words(rng, 12)}"
        yield agent.step(tool, {"command": command}, f"{output} in {rng.uniform(0.1, 9):.2f}s", wait_s=2)
        if rng.random() < 0.4:
            yield agent.step(agent.trade.read[0], {agent.trade.read[1]: name}, f"{name} {words(rng, 60)}")
        edit = {"at": name, "old": words(rng, 6), "new": words(rng, 6)}
        yield agent.step(agent.trade.change, edit, agent.trade.done)
        failing -= rng.random() < 0.5
    yield agent.step(tool, {"command": command}, f"all passed in {rng.uniform(0.1, 9):.2f}s", wait_s=2)


def batch(agent: Agent) -> Iterator[Step]:
    """Does the same to many things, one by one; each is answered the same."""
    rng, what = agent.rng, words(agent.rng, 2)
    for _ in range(rng.randint(8, 30)):
        yield agent.step(agent.trade.change, {"id": agent.number(), "set": what}, agent.trade.done)


def reading(agent: Agent) -> Iterator[Step]:
    """Reads and searches, some things twice."""
    rng, (name, field), (finder, query) = agent.rng, agent.trade.read, agent.trade.search
    seen: list[Step] = []
    for _ in range(rng.randint(6, 18)):
        if len(seen) > 1 and rng.random() < 0.25:
            seen.append(seen.pop(rng.randrange(len(seen) - 1)))  # not what it has just read
            yield seen[-1]
            continue
        what = f"{words(rng, 2)} {agent.number()}"
        found = agent.step(name, {field: what}, words(rng, rng.randint(20, 120)))
        if rng.random() < 0.4:
            found = agent.step(finder, {query: what}, rng.choice([words(rng, 30), "No results found."]))
        seen.append(found)
        yield found


def several_at_once(agent: Agent) -> Iterator[Step]:
    """Calls several tools in one turn."""
    rng, (name, field) = agent.rng, agent.trade.read
    for _ in range(rng.randint(3, 8)):
        count = rng.randint(2, 5)
        calls = tuple((name, {field: f"{words(rng, 1)} {agent.number()}"}) for _ in range(count))
        yield Step(agent.thought(), calls, tuple(words(rng, 15) for _ in range(count)))


def chatting(agent: Agent) -> Iterator[Step]:
    """Talks with a person who says little."""
    rng = agent.rng
    for _ in range(rng.randint(4, 12)):
        asked = rng.choice(["ok", "continue", "yes", "go on", words(rng, 8)])
        yield Step(words(rng, rng.randint(8, 60)), asked=asked, wait_s=rng.uniform(1, 40))


def slots(agent: Agent) -> Iterator[Step]:
    """Looks for a free hour: only a time differs from call to call, and the answer is no."""
    day = agent.rng.randint(10, 27)
    for hour in range(8, 8 + agent.rng.randint(5, 12)):
        at = f"2026-12-{day}T{hour:02}:00:00Z"
        yield agent.step("check_availability", {"start": at, "room": "blue"}, '{"free":false}')
    yield agent.step("check_availability", {"start": f"2026-12-{day}T21:00:00Z"}, '{"free":true}')


def failing_network(agent: Agent) -> Iterator[Step]:
    """Works while calls of the model fail and are sent again by the SDK."""
    for step in reading(agent):
        failures = agent.rng.choice([0, 0, 1, 2, 4])
        yield Step(step.said, step.calls, step.results, failures=failures)


def expensive(agent: Agent) -> Iterator[Step]:
    """Works with a large context on a dear model."""
    for step in test_and_fix(agent):
        yield Step(step.said, step.calls, step.results, wait_s=3, usd=agent.rng.uniform(0.2, 0.9))


def status_between(agent: Agent) -> Iterator[Step]:
    """Looks at the same state after each piece of work; it is often the same."""
    rng = agent.rng
    for _ in range(rng.randint(4, 10)):
        edit = {"at": agent.number(), "new": words(rng, 5)}
        yield agent.step(agent.trade.change, edit, agent.trade.done)
        state = rng.choice(["working tree clean", "working tree clean", f"{agent.number()} changed"])
        yield agent.step(agent.trade.status, {"command": "git status"}, state)


EPISODES: tuple[Episode, ...] = (
    polling, paced_polling, retries, pagination, test_and_fix, batch, reading, several_at_once, chatting,
    slots, failing_network, expensive, status_between,
)  # fmt: skip
