"""Everything the benchmark compares, started on one stand: each subject by the name it has in the tables."""

from dataclasses import dataclass, replace

from bench import subjects
from bench.stand import Stand, Subject, await_model, virtual_key
from llm_proxy.stack import probe

DIRECT = "direct"
RELAY = "bare relay"
FLOOR = "bare relay + one Redis script"
LEAST = "least relay + one Redis script"
GATEWAY = "llm-proxy"
PLAIN = "llm-proxy, no stores"
STOCK = "LiteLLM"
SIDECAR = "our sidecar alone"
WHOLE = "llm-proxy + our sidecar"
FERRO = "ferrogw"
PORTKEY = "Portkey"
NGINX = "nginx"
CONSTANT = "a constant answer"
CONSTANT_OURS = "a constant answer on our connection"
ALL = (RELAY, FLOOR, LEAST, GATEWAY, PLAIN, STOCK, SIDECAR, WHOLE, FERRO, PORTKEY, NGINX)
RPM = 1_000_000_000


@dataclass(frozen=True, slots=True)
class House:
    """What runs, and what could not be started.

    Attributes:
        refused: The gateway asked with a wrong key, and with a key whose limit is used up.
        constant: uvicorn, and our connection under its server, answering every request with the same refusal.
    """

    subjects: dict[str, Subject]
    refused: dict[int, Subject]
    constant: tuple[Subject, Subject]
    missing: tuple[str, ...]


def furnish(stand: Stand, *, litellm: bool = True, others: bool = True) -> House:
    """Start the subjects; `llm-proxy` has everything on: a virtual key, shared limits, records, logs."""
    at = {name: probe.free_port() for name in (*ALL, CONSTANT, CONSTANT_OURS)}
    up, folder, stores = stand.upstream_port, stand.folder, stand.stores
    config = subjects.litellm_config(folder, up)
    started = [
        subjects.relay(RELAY, at[RELAY], up),
        subjects.relay(FLOOR, at[FLOOR], up, stores.valkey),
        subjects.gateway(GATEWAY, at[GATEWAY], up, folder, stores),
        subjects.constant(CONSTANT, at[CONSTANT]),
        subjects.constant(CONSTANT_OURS, at[CONSTANT_OURS], ours=True),
    ]
    if litellm:
        started += [
            subjects.stock_litellm(STOCK, at[STOCK], config),
            subjects.sidecar(SIDECAR, at[SIDECAR], config),
            subjects.gateway(WHOLE, at[WHOLE], at[SIDECAR], folder, stores),
        ]
    wanted = {}
    if others:
        started.append(subjects.gateway(PLAIN, at[PLAIN], up, folder, None))
        started.append(subjects.least(LEAST, at[LEAST], up, stores.valkey))
        wanted[PORTKEY] = subjects.portkey(PORTKEY, at[PORTKEY])
        wanted[NGINX] = subjects.nginx(NGINX, at[NGINX], up, folder)
    wanted[FERRO] = subjects.ferrogw(FERRO, at[FERRO], up, folder)
    stand.start(*started, *(one for one in wanted.values() if one is not None))
    names = [*(one.name for one in started), *(name for name, one in wanted.items() if one is not None)]
    found = {DIRECT: Subject(DIRECT, stand.url(up), (stand.pid("upstream"),))}
    found |= {name: _subject(stand, name, at[name]) for name in names}
    tight = virtual_key(at[GATEWAY], name="tight", tenant="acme", agent="busy", rpm=1)
    refused = {
        401: stand.subject(GATEWAY, at[GATEWAY], "sk-somebody-elses-0123456789"),
        429: stand.subject(GATEWAY, at[GATEWAY], tight),
    }
    groups = {stand.pid(name) for name in names}
    constant = _alone(found.pop(CONSTANT), groups), _alone(found.pop(CONSTANT_OURS), groups)
    found = {name: _alone(one, groups) for name, one in found.items()}
    refused = {status: _alone(one, groups) for status, one in refused.items()}
    return House(found, refused, constant, tuple(name for name, one in wanted.items() if one is None))


def _alone(subject: Subject, groups: set[int]) -> Subject:
    return replace(subject, others=tuple(groups.difference(subject.pids)))


def _subject(stand: Stand, name: str, port: int) -> Subject:
    if name in (GATEWAY, WHOLE, PLAIN):
        await_model(port)
        key = subjects.SECRET
        if name != PLAIN:
            key = virtual_key(port, name=name.replace(" ", "-"), tenant="acme", agent="scout", rpm=RPM)
        programs = (name, SIDECAR) if name == WHOLE else ()
        return stand.subject(name, port, key, *programs)
    if name == PORTKEY:
        upstream = f"x-portkey-custom-host: http://127.0.0.1:{stand.upstream_port}/v1"
        return stand.subject(name, port, headers=("x-portkey-provider: openai", upstream))
    return stand.subject(name, port)
