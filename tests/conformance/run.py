"""Real clients against a real gateway, unchanged but for `base_url` and key; `make conformance`.

Each client has an environment of its own below `.local/conformance`, made from its lock file. What they
report goes to `docs/conformance.md` and `.local/conformance/report.json`; a failure makes exit code 1.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from conformance import media, page
from running_stack import ADMIN_KEY, KEY
from stack_processes import StackProcesses, run_stack

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".local" / "conformance"
LOCKS = ROOT / "locks" / "conformance"
CLIENTS = Path(__file__).with_name("clients")
TIMEOUT_S, SUITE_TIMEOUT_S = 900, 1800
EXAMPLES, SEED = 200, 20260801
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
OPERATORS = "^/(admin|metrics)"
SETTINGS = {
    "LLM_PROXY__AGENT_RPM": "0",
    "LLM_PROXY__CACHE_MODE": "off",
    "LLM_PROXY__SEALING_KEYS": "one=only-for-this-run-0123456789abcdef",
}
SCRIPTED = {"model": "openai/*", "api_base": "PROVIDER/v1", "api_key": "sk-conformance"}


def _native(group: str, model: str, url: str, path: str) -> dict[str, Any]:
    """A model whose server speaks Responses, Messages or Google's API itself."""
    params = SCRIPTED | {"model": model, "api_base": url}
    return {"model_name": group, "litellm_params": params, "model_info": {"supported_endpoints": [path]}}


CONFIG = {
    "model_list": [
        {"model_name": "p/*", "litellm_params": SCRIPTED},
        {"model_name": "plain", "litellm_params": SCRIPTED | {"model": "openai/plain"}},
        {"model_name": "own-chat", "litellm_params": SCRIPTED | {"model": "hosted_vllm/own-chat"}},
        _native("gpt/*", "openai/*", "PROVIDER/v1", "/v1/responses"),
        _native("claude/*", "anthropic/*", "PROVIDER", "/v1/messages"),
        _native("gpt-5.1", "openai/gpt-5.1", "PROVIDER/v1", "/v1/responses"),
        _native("gemini-2.5-flash", "gemini/gemini-2.5-flash", "PROVIDER/v1beta", "/v1beta/generateContent"),
        {
            "model_name": "vectors",
            "litellm_params": SCRIPTED | {"model": "openai/vectors"},
            "model_info": {"mode": "embedding"},
        },
        _native("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5", "PROVIDER", "/v1/messages"),
        {
            "model_name": "gemini-2.5-pro",
            "litellm_params": SCRIPTED | {"model": "gemini/gemini-2.5-pro", "api_base": "PROVIDER"},
        },
    ],
    "router_settings": {
        "num_retries": 1,  # beside 0 LiteLLM reads no policy
        "retry_policy": {"DefaultRetries": 0, "InternalServerErrorRetries": 1},
        "disable_cooldowns": True,
    },
}
COMPLY = (
    ("openai-chat", "p/helpful"),
    ("open-responses", "p/helpful"),
    ("open-responses", "gpt/helpful"),
    ("anthropic", "p/helpful"),
    ("anthropic", "claude/helpful"),
)
"""llm-comply's formats, and models that answer in words or, when tools are offered, call one."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client's program and the environment it runs in.

    Attributes:
        name: Of its environment, and of its lock file when it has one.
        program: The file in `clients`.
        python: The interpreter of an environment that stands already.
        modules: The folder of locks that its node modules have, when it is a program of its own from npm.
    """

    name: str
    program: str
    python: Path | None = None
    modules: str = ""


OWN = (
    Client("openai1", "by_openai.py"),
    Client("openai2", "by_openai.py"),
    Client("openai3", "by_openai.py", Path(sys.executable)),
    Client("langchain", "by_langchain.py"),
    Client("llamaindex", "by_llamaindex.py"),
    Client("pydantic-ai", "by_pydantic_ai.py"),
    Client("instructor", "by_instructor.py"),
    Client("openai-agents", "by_openai_agents.py"),
    Client("litellm", "by_litellm.py", ROOT / ".venv-sidecar" / "bin" / "python"),
    Client("llm", "by_llm.py"),
    Client("curl", "by_curl.py", Path(sys.executable)),
    Client("node", "by_openai_node.mjs"),
    Client("node", "by_ai_sdk.mjs"),
    Client("codex", "by_codex.py", Path(sys.executable), "clis"),
    Client("claude-code", "by_claude_code.py", Path(sys.executable), "clis"),
    Client("gemini-cli", "by_gemini_cli.py", Path(sys.executable), "clis"),
    Client("google-genai", "by_google_genai.py"),
)
MEDIA = (
    Client("openai3", "by_openai_media.py", Path(sys.executable)),
    Client("node", "by_openai_node_media.mjs"),
    Client("cohere", "by_cohere.py"),
    Client("langchain-media", "by_cohere.py"),  # it pins an older Cohere
    Client("node", "by_google_genai_node.mjs"),
    Client("langchain-media", "by_langchain_media.py"),
    Client("litellm", "by_litellm_media.py", ROOT / ".venv-sidecar" / "bin" / "python"),
    Client("web-apps", "by_web_apps.py", Path(sys.executable)),
)
"""Clients of images, audio, reranking, moderations, and of Azure's, Cohere's and Google's spellings."""


def environment(name: str, wanted: str = sys.executable) -> Path:
    """The Python of an environment, or node's modules; made anew when its lock changed or it was moved.

    `wanted` is the Python it is made with: a path, or a range of versions.
    """
    folder, lock = HOME / name, LOCKS / f"{name}.txt"
    if (LOCKS / name).is_dir():
        return _node(folder)
    stamp = folder / ".made"
    made_as = stamp.read_text() if stamp.exists() else ""
    if made_as != str(folder) or stamp.stat().st_mtime < lock.stat().st_mtime:
        print(f"→ environment {name}", flush=True)
        uv = subprocess.check_output(["/bin/sh", ROOT / "scripts" / "uv.sh"], text=True).strip()
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", wanted, folder], check=True)
        python = folder / "bin" / "python"
        words = ["pip", "install", "--quiet", "--no-deps", "--require-hashes", "--requirement", str(lock)]
        subprocess.run([uv, *words, "--python", python], check=True)
        stamp.write_text(str(folder))  # its programs name their Python by its path
    return folder / "bin" / "python"


def _node(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for source in [*(LOCKS / folder.name).glob("package*.json"), *CLIENTS.glob("*.mjs")]:
        shutil.copy(source, folder)
    wanted = (folder / "package-lock.json").read_bytes()
    stamp = folder / ".made"
    if not stamp.exists() or stamp.read_bytes() != wanted:
        print(f"→ environment {folder.name}", flush=True)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-progress"], cwd=folder, check=True)  # noqa: S607
        stamp.write_bytes(wanted)
    return folder / "node_modules"


def run(client: Client, stack_env: dict[str, str]) -> dict[str, Any]:
    """What a client reports; an environment or a program that fails is a report too."""
    try:
        made = client.python or environment(client.name)
        words = [str(made), str(CLIENTS / client.program)]
        more = {"PYTHONDONTWRITEBYTECODE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        if client.modules:
            more["MODULES"] = str(environment(client.modules))
        elif client.name == "node":
            words, more = ["node", str(made.parent / client.program)], {"MODULES": str(made)}
        with tempfile.TemporaryDirectory(prefix="client-") as home:
            env = {"PATH": os.environ["PATH"], "HOME": home, **more, **stack_env}
            done = subprocess.run(
                words, env=env, cwd=home, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError) as problem:
        print(f"{client.program}: {problem}", file=sys.stderr)
        return {
            "client": client.name,
            "version": "",
            "checks": {"start": f"{type(problem).__name__}: {problem}"[:300]},
        }
    return report


def comply(stack_env: dict[str, str]) -> list[dict[str, Any]]:
    """llm-comply's tests of each API, native and translated."""
    return [_comply(stack_env, kind, model) for kind, model in COMPLY]


def _comply(stack_env: dict[str, str], kind: str, model: str) -> dict[str, Any]:
    command = environment("llm-comply").parent / "llm-comply"
    words = [str(command), "--format", kind, "-u", stack_env["BASE_URL"], "-k", KEY]
    words += ["-m", model, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    found = json.loads(done.stdout[done.stdout.index("{") :])
    done_of = [one for one in found["results"] if one["status"] != "skipped"]
    checks = {one["id"]: "" if one["status"] == "passed" else str(one.get("errors"))[:300] for one in done_of}
    return {"client": f"llm-comply {kind} on {model}", "version": "0.5.0", "checks": checks}


def schemathesis(stack_env: dict[str, str], folder: Path) -> dict[str, Any]:
    """Generated requests against our own OpenAPI page: no 5xx, every answer as the page says.

    Callers' routes with a caller's key first, then the operators' routes, which may shut the callers'.
    """
    checks: dict[str, str] = {}
    for whose, key, chosen in (
        ("callers' routes", KEY, "--exclude-path-regex"),
        ("operators' routes", ADMIN_KEY, "--include-path-regex"),
    ):
        words = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"{stack_env['GATEWAY']}/openapi.json",
            "--header", f"Authorization: Bearer {key}", chosen, OPERATORS,
            "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--phases", "examples,fuzzing",
            "--checks", CHECKS, "--continue-on-failure",
        ]  # fmt: skip
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=SUITE_TIMEOUT_S, check=False
        )
        (HOME / f"schemathesis-{whose.partition(chr(39))[0]}.txt").write_text(
            done.stdout + done.stderr, encoding="utf-8"
        )
        made = re.search(r"(\d+) generated", done.stdout)
        name = f"{made[1] if made else 0} requests to the {whose}"
        checks[name] = "" if done.returncode == 0 else done.stdout[-600:]
    return {"client": "schemathesis", "version": metadata.version("schemathesis"), "checks": checks}


def _machine() -> str:
    node = subprocess.check_output(["/usr/bin/env", "node", "--version"], text=True).strip()
    return f"Python {platform.python_version()}, node {node.removeprefix('v')}"


def _env_of(stack: StackProcesses) -> dict[str, str]:
    url = stack.url("gateway-1")
    return {"GATEWAY": url, "BASE_URL": f"{url}/v1", "API_KEY": KEY, "PROVIDER_URL": stack.url("provider")}


def main() -> int:
    """Run what is asked for, all by default."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("only", nargs="*", help="names of clients, media, llm-comply, schemathesis")
    only = set(flags.parse_args().only)
    HOME.mkdir(parents=True, exist_ok=True)
    reports: list[dict[str, Any]] = []
    if only - {"media"} or not only:
        with run_stack(CONFIG, settings=SETTINGS) as stack:
            env = _env_of(stack)
            reports += [run(client, env) for client in OWN if not only or client.name in only]
            if not only or "llm-comply" in only:
                reports += comply(env)
            if not only or "schemathesis" in only:
                reports.append(schemathesis(env, stack.folder))
    wanted = [client for client in MEDIA if not only or only & {client.name, "media"}]
    if wanted:
        with run_stack(media.CONFIG, settings=media.SETTINGS) as stack:
            reports += [run(client, _env_of(stack)) for client in wanted]
    print(page.table(reports))
    if not only:
        (HOME / "report.json").write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")
        (ROOT / "docs" / "conformance.md").write_text(page.page(reports, _machine()), encoding="utf-8")
    return 1 if page.ours(reports) else 0


if __name__ == "__main__":
    sys.exit(main())
