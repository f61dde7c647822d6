"""What LiteLLM's import leaves for later: missing when the import ends, and as usual once it is used."""

import json
import subprocess
from typing import Any

import pytest
from warm_sidecars import passed_on

from llm_proxy.sidecar.environment import REQUIRED
from llm_proxy.stack.process_specs import sidecar_python

LOOK = """
import json, sys
from pathlib import Path
from importlib import import_module
from llm_proxy.sidecar import launch
from llm_proxy.sidecar.deferred_imports import DEFERRED, MODULES_OF_CALLS, DeferredName, deferring

launch.prepare(Path(sys.argv[1]))
from pydantic import BaseModel, TypeAdapter

def deferred():
    return sorted(one for one in sys.modules if f"{one}.".startswith(DEFERRED))

class Later(BaseModel):
    count: int

def every(base):
    for one in base.__subclasses__():
        yield one
        yield from every(one)

seen = {"after_import": deferred(), "numbers": "numpy" in sys.modules}
unbuilt = [one.__module__ for one in every(BaseModel) if not one.__pydantic_complete__]
seen["unbuilt_of_calls"] = [one for one in unbuilt if one in MODULES_OF_CALLS]
seen["built_later"] = sum(one.startswith("litellm.") for one in unbuilt)
seen["defined_after"] = [Later.__pydantic_complete__, TypeAdapter(list[int]).pydantic_complete]

held = import_module("litellm.llms.openai.openai").Assistant
given = {"id": "a", "created_at": 1, "model": "m", "object": "assistant", "tools": []}
made = held(**given)
real = import_module("openai.types.beta.assistant").Assistant
seen["held"] = [type(held).__name__, type(made) is real]
seen["instances"] = [isinstance(made, held), isinstance(1, held), issubclass(real, held)]
seen["subclass"] = type("Own", held.__mro_entries__(()), {}).__bases__ == (real,)
seen["validated"] = TypeAdapter(held | None).validate_python(given) == made
seen["attribute"] = held.model_fields.keys() == real.model_fields.keys()
seen["resource"] = type(import_module("openai").OpenAI(api_key="none").beta.assistants).__module__

unbuildable = []
for one in list(every(BaseModel)):
    if one.__module__.startswith(("litellm.", "mcp")) and not one.__pydantic_generic_metadata__["parameters"]:
        try:
            one.model_rebuild()
        except Exception as error:
            unbuildable.append([f"{one.__module__}.{one.__qualname__}", type(error).__name__])
seen["unbuildable"] = unbuildable

for name in deferred():
    del sys.modules[name]
with deferring():
    from openai.types.beta import Assistant
    seen["used_at_once"] = [type(Assistant).__name__, type(Assistant(**given)).__module__]
    from openai.types.beta import Thread
    seen["then_usual"] = isinstance(Thread, type)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process sees that has imported LiteLLM, which takes seconds: all at once."""
    file = tmp_path_factory.mktemp("deferred") / "litellm.yaml"
    file.write_text("model_list: []", encoding="utf-8")
    command = [str(sidecar_python()), "-c", LOOK, str(file)]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=passed_on() | REQUIRED)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_no_call_uses_is_not_imported(seen: dict[str, Any]) -> None:
    """The modules are missing; LiteLLM's models are built later, but for those of calls."""
    assert seen["after_import"] == []
    assert seen["numbers"] is False  # what `soundfile` is made of
    assert seen["unbuilt_of_calls"] == []
    assert seen["built_later"] > 500


def test_a_model_defined_after_the_import_is_built_at_once(seen: dict[str, Any]) -> None:
    """An operator's own callback may define some."""
    assert seen["defined_after"] == [True, True]


def test_a_name_of_a_deferred_module_is_imported_when_it_is_used(seen: dict[str, Any]) -> None:
    """Called, subclassed, asked for an attribute or an instance, or read by pydantic."""
    assert seen["held"] == ["DeferredName", True]
    assert seen["instances"] == [True, False, True]
    assert seen["subclass"]
    assert seen["validated"]
    assert seen["attribute"]
    assert seen["resource"].startswith("openai.resources.beta.")


def test_every_model_can_be_built_later(seen: dict[str, Any]) -> None:
    """One that LiteLLM uses nowhere in a test would fail in the first call that needs it."""
    assert seen["unbuildable"] == []


def test_an_import_that_uses_a_name_imports_its_module_at_once(seen: dict[str, Any]) -> None:
    """A later release may: it starts more slowly, and works."""
    assert seen["used_at_once"] == ["DeferredName", "openai.types.beta.assistant"]
    assert seen["then_usual"]
