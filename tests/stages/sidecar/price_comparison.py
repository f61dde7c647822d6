"""Prices of LiteLLM's and ours, compared in a process that has LiteLLM."""

import json
import os
import subprocess
from typing import Any

from llm_proxy.stack.process_specs import sidecar_python

Json = dict[str, Any]
SETUP = """
import asyncio, json, random, sys
import litellm
from litellm.litellm_core_utils.litellm_logging import Logging
from llm_proxy.sidecar import direct_internals, direct_requests, flat_prices, native_prices

asked, seen = json.load(sys.stdin), []
update = Logging.update_environment_variables
def note(self, *args, **options):
    seen.append(self)
    return update(self, *args, **options)
Logging.update_environment_variables = note

def deployment(name, model, info):
    params = {"model": model, "api_key": "none", "api_base": info.pop("api_base", None)}
    return {"model_name": name, "litellm_params": params, "model_info": info | {"id": name}}

router = litellm.Router(model_list=[deployment(name, *one) for name, one in asked["models"].items()])
rng = random.Random(26)

async def pricing_of(name):
    await router.acompletion(model=name, messages=[{"role": "user", "content": "a"}], mock_response="b")
    return direct_requests._pricing(seen[-1])
"""
"""What each comparison begins with: a router with the deployments, and LiteLLM's logging object of a call."""


def compare(models: dict[str, tuple[str, Json]], times: int, script: str, **more: object) -> Json:
    """Return what a script printed that has a router with these deployments, and `more` of what is asked."""
    asked = json.dumps({"models": models, "times": times, **more})
    command = [str(sidecar_python()), "-c", SETUP + script]
    env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    ran = subprocess.run(command, input=asked, capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result: Json = json.loads(ran.stdout)
    return result
