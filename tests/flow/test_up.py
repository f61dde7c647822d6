"""`llm-proxy up` from an empty folder: one command, then responses of real models through the OpenAI SDK."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from dotenv import dotenv_values
from processes import descendants, lives, may_dump_core
from running_stack import say
from up_command import QUESTION, UpCommand, bare_environment, run_up
from waiting import until

from llm_proxy.cli.printing import EXIT_UNAVAILABLE
from llm_proxy.stack.probe import bind, free_port
from llm_proxy_service import SyncLLMProxyService, create_completion_request

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The stack's folder; `nobody`, as whom Postgres may have to run, can enter it."""
    with tempfile.TemporaryDirectory(prefix="llm-proxy-up-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[UpCommand]:
    """A stack that is ready."""
    with run_up(home, console_port=free_port()) as up:
        up.wait_for("Ctrl-C stops everything")
        yield up


def test_a_chat_gets_a_real_response(stack: UpCommand) -> None:
    """Text of a language model."""
    assert "Paris" in stack.ask()


def test_a_stream_arrives_in_many_pieces(stack: UpCommand) -> None:
    """Not in one piece at the end."""
    with stack.client() as client:
        stream = client.chat.completions.create(model="local-chat", messages=say(QUESTION), stream=True)
        pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert len(pieces) > 2


def test_the_python_example_runs_to_its_end(stack: UpCommand) -> None:
    """The program that docs/connect/openai_sdk.md shows, with the installed key and models."""
    key = dotenv_values(stack.folder / ".env")["LLM_PROXY__INTERNAL_API_KEY"] or ""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[2] / "examples" / "clients" / "openai_python.py")],
        env=bare_environment() | {"KEY": key, "BASE_URL": f"http://127.0.0.1:{stack.port}/v1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3  # an answer, a stream, and the length of a vector
    assert done.stdout.splitlines()[-1] == "384"


def test_embeddings_of_similar_words_are_similar(stack: UpCommand) -> None:
    """`cat` is closer to `kitten` than to `stock market`."""
    words = ["cat", "kitten", "stock market"]
    with stack.client() as client:
        data = client.embeddings.create(model="all-minilm-l6-v2", input=words).data
    cat, kitten, market = (one.embedding for one in data)
    assert len(cat) == 384
    assert dot(cat, kitten) > 0.5 > dot(cat, market)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_the_local_models_are_listed(stack: UpCommand) -> None:
    """By group names and aliases."""
    with stack.client() as client:
        listed = {model.id for model in client.models.list()}
    assert {"smollm2", "all-minilm-l6-v2", "local-chat", "local-embed"} <= listed


def test_only_the_owner_can_read_what_the_stack_writes(stack: UpCommand) -> None:
    """Data, logs, records and addresses, whatever the umask; and no process dumps core."""
    state = stack.folder / ".local"
    written = [Path(folder, name) for folder, folders, files in os.walk(state) for name in folders + files]
    assert [path for path in written if rights_of_others(path)] == []
    assert rights_of_others(state) in {0, 0o011}  # where Postgres runs as `nobody`, it passes through
    assert (state / "running.env").is_file()
    running = descendants(stack.process.pid)
    assert len(running) > 4
    assert [pid for pid in running if may_dump_core(pid)] == []


def rights_of_others(path: Path) -> int:
    """Those of group and others; none to links, sockets, and what the stack has meanwhile removed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return 0
    return 0 if stat.S_ISLNK(mode) or stat.S_ISSOCK(mode) else mode & 0o077


def test_both_examples_work_when_pasted(stack: UpCommand) -> None:
    """The shell's and Python's, as printed; the test model knows the answer."""
    shell, python = re.findall(r"(?ms)^((?:  curl|import) .*?)\n\n", stack.output)
    commands = (["sh", "-c", shell], [sys.executable, "-c", python])
    for command in commands:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
        assert "Tokyo" in ran.stdout, ran


def test_the_self_check_shows_each_part_with_its_time(stack: UpCommand) -> None:
    """One call to the test model passed all of them, and left its record."""
    stack.wait_for("Ctrl-C stops everything")
    for part in ("gateway", "limits", "sidecars", "model", "record"):
        assert re.search(rf"(?m)^  {part} +ok +[\d,.]+ ms", stack.output), stack.output
    assert "smollm2, all-minilm-l6-v2, local-chat, local-embed (test models on this machine)" in stack.output
    argv = [sys.executable, "-m", "llm_proxy", "usage", "--by", "agent", "--json"]
    used = subprocess.run(argv, cwd=stack.folder, env=bare_environment(), capture_output=True, check=True)
    assert b"self-check" in used.stdout


def test_the_doctor_finds_nothing_and_then_what_is_wrong(stack: UpCommand) -> None:
    """Stores, sidecar, spool and limits of this stack are found in its folder."""
    env = bare_environment() | {"LLM_PROXY__MAX_CONNECTIONS": "100", "LLM_PROXY__STORE_TIMEOUT_MS": "2000"}
    argv = [sys.executable, "-m", "llm_proxy", "doctor", "--json"]
    done = subprocess.run(argv, cwd=stack.folder, env=env, capture_output=True, check=False)
    report = json.loads(done.stdout)
    assert (report["findings"], done.returncode) == ([], 0)
    assert {one["check"]: one["state"] for one in report["checks"]}.items() >= {
        *(("sidecars", "ok"), ("limits-store", "ok"), ("cache-store", "ok"), ("process-limits", "ok")),
    }
    env_file = stack.folder / ".env"
    env_file.chmod(0o644)
    stack.folder.chmod(0o755)
    try:
        done = subprocess.run(argv, cwd=stack.folder, env=env, capture_output=True, check=False)
    finally:
        env_file.chmod(0o600)
        stack.folder.chmod(0o711)
    assert [one["code"] for one in json.loads(done.stdout)["findings"]] == ["secret-file-readable"]
    assert done.returncode == 1


def test_commands_beside_the_stack_find_its_database(stack: UpCommand) -> None:
    """Keys and usage work without a store's address; only the owner can read the file of addresses."""
    home, env = stack.folder, bare_environment()
    assert (home / ".local" / "running.env").stat().st_mode & 0o777 == 0o600
    for words in (("keys", "create", "--name", "beside"), ("keys", "list"), ("usage",)):
        argv = [sys.executable, "-m", "llm_proxy", *words]
        done = subprocess.run(argv, cwd=home, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_link_to_the_console_signs_in_once(stack: UpCommand) -> None:
    """As owner, at the stack's own console."""
    found = re.search(r"console +(http://127\.0\.0\.1:\d+)(/sign-in/link/\S+)", stack.output)
    assert found is not None, stack.output
    with httpx.Client(base_url=found[1]) as browser:
        assert browser.post(found[2]).status_code == 303
        assert "this session" in browser.get("/sessions").text
        browser.cookies.clear()
        assert browser.post(found[2]).status_code == 401


def test_secrets_are_created_once_and_never_printed(stack: UpCommand) -> None:
    """They are in a file that only its owner can read."""
    secrets = [value for value in dotenv_values(stack.folder / ".env").values() if value]
    assert len(secrets) == 5
    assert not any(secret in stack.output for secret in secrets)
    assert (stack.folder / ".env").stat().st_mode & 0o777 == 0o600


def test_a_second_launcher_in_the_same_folder_does_not_start(stack: UpCommand) -> None:
    """One line, exit code 1."""
    assert failed_start(stack.folder, free_port()) == (
        "llm-proxy: another `llm-proxy up` runs on .local/: stop it, or name another --state\n"
    )


def test_with_a_port_in_use_nothing_starts(stack: UpCommand, tmp_path: Path) -> None:
    """One line that says what to do, exit code 1; no file is left."""
    said = failed_start(tmp_path, stack.port)
    assert said == f"llm-proxy: port {stack.port} on 127.0.0.1 is in use: choose another with --port\n"
    assert list(tmp_path.iterdir()) == []


def failed_start(folder: Path, port: int) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "llm_proxy", "up", "--port", str(port)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    return ran.stderr


def test_a_killed_sidecar_is_named_and_forked_anew(stack: UpCommand) -> None:
    """Calls are answered again; its parent goes on."""
    parent = stack.sidecars()[0]
    [worker] = descendants(parent)
    os.kill(worker, signal.SIGKILL)
    log = stack.folder / ".local" / "logs" / "sidecars-1.log"
    until(lambda: "ended with code -9; another one starts" in log.read_text(encoding="utf-8"), 60)
    until(lambda: worker not in descendants(parent) and len(descendants(parent)) == 1, 60)
    assert "Paris" in stack.ask()
    assert stack.sidecars()[0] == parent


def test_when_their_parent_is_killed_the_sidecars_serve_until_others_do(stack: UpCommand) -> None:
    """Each call is answered meanwhile, and in the end the orphans are gone."""
    parent = stack.sidecars()[0]
    [orphan] = descendants(parent)
    os.kill(parent, signal.SIGKILL)
    stack.wait_for("sidecars-1 ended with code -9; restarting it in 0.5 s")
    while "sidecars-1 is back" not in stack.output:
        assert "Paris" in stack.ask()
    assert "Paris" in stack.ask()
    until(lambda: not lives(orphan), 60)
    assert "Paris" in stack.ask()


def test_ctrl_c_stops_everything_at_once_and_a_restart_finds_its_data(stack: UpCommand, home: Path) -> None:
    """Also after `kill -9`, which leaves no process, and with the older service's command and client."""
    processes = descendants(stack.process.pid)
    key = dotenv_values(home / ".env")
    stopped_s = time.monotonic()
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(15) == 0
    assert time.monotonic() - stopped_s < 4  # 1 s on an idle machine
    assert [args for pid, args in processes.items() if lives(pid)] == []

    with run_up(home, "--cache-size", "2000", start=("llm_proxy_service",)) as again:
        again.wait_for("Ctrl-C stops everything")
        assert "Paris" in again.ask()
        assert dotenv_values(home / ".env") == key
        url, own_key = f"http://127.0.0.1:{again.port}", key["LLM_PROXY__INTERNAL_API_KEY"]
        with SyncLLMProxyService(base_url=url, api_key=own_key) as service:
            request = create_completion_request(QUESTION, model="smollm2", temperature=0)
            assert "Paris" in service.generate_completion(request).content
            assert service.list_providers() == ["local"]
        processes = descendants(again.process.pid)
        again.process.kill()
        again.process.wait()
    deadline_s = time.monotonic() + 10
    while any(map(lives, processes)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [args for pid, args in processes.items() if lives(pid)] == []


def init_with_stores_away(folder: Path) -> str:
    """Writes the settings of stores that do not answer, by `init`; returns what it printed."""
    given = (
        *("--database-url", f"postgresql://u:S3cretPart@127.0.0.1:{free_port()}/d"),
        *("--redis-url", f"redis://:S3cretPart@127.0.0.1:{free_port()}"),
    )
    made = subprocess.run(
        [sys.executable, "-m", "llm_proxy", "init", folder, "--no-compose", *given],
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout + made.stderr


def test_stores_that_refuse_are_told_with_the_reason(tmp_path: Path) -> None:
    """The stack starts from what `init` wrote without them, and shows why; no password is shown."""
    assert "S3cretPart" not in init_with_stores_away(tmp_path)
    with run_up(tmp_path, "--no-local-model") as up:
        up.wait_for("Ctrl-C stops everything")
        for part in ("limits", "database"):
            assert re.search(rf"(?m)^  {part} +failed +away: nothing listens at its address", up.output), (
                up.output
            )
        assert "S3cretPart" not in up.output


def test_a_console_whose_port_another_program_has(tmp_path: Path) -> None:
    """`up` names the port and the setting; `console --link` prints no link to that program."""
    init_with_stores_away(tmp_path)
    with closing(bind("127.0.0.1", 0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with run_up(tmp_path, "--no-local-model", console_port=port, forces_console=False) as up:
            up.wait_for("Ctrl-C stops everything")
            link = subprocess.run(
                [sys.executable, "-m", "llm_proxy", "console", "--link"],
                cwd=tmp_path,
                env={**bare_environment(), "LLM_PROXY__CONSOLE_PORT": str(port)},
                capture_output=True,
                text=True,
                check=False,
            )
    fault = f"port {port} is in use: choose another with LLM_PROXY__CONSOLE_PORT"
    assert f"off ({fault})" in up.output
    assert (link.returncode, link.stdout) == (EXIT_UNAVAILABLE, "")
    assert link.stderr.strip().endswith(fault)
