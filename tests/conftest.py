"""The services the tests run on, real ones, started once per run on free ports and gone with the run.

Invariants: a killed test run leaves no process behind; its data lies in a folder of its own under the
system's temporary folder; LiteLLM's environment is made when it is missing and a test may ask for it.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import markers
import pytest
import sidecar_parts
from all_providers import AllProviders, run_all_providers
from distribution import SharedFixtureScheduling
from hypothesis import settings
from processes import lives
from xdist.remote import Producer  # pyright: ignore[reportMissingTypeStubs] -- it is typed

from llm_proxy import schema
from llm_proxy.setting_sources import names_of
from llm_proxy.settings import Settings
from llm_proxy.stack import NotInstalled, environments, probe, process, process_specs
from llm_proxy.stack.stores import ValkeyPurpose, postgres_spec, valkey_spec, valkey_url
from llm_proxy.stack.stores import postgres_url as address_of_postgres

FOLDER_PREFIX = "llm-proxy-tests-"
MEMORY_FOLDER_BYTES = 8 * 2**30
"""What must be free for the data of a run's services."""
PASSWORD = "only-for-this-test-run"

settings.register_profile("no-deadline", deadline=None)  # a machine with other work must not decide
settings.load_profile("no-deadline")
WORKING_FOLDER = tempfile.TemporaryDirectory(prefix="llm-proxy-empty-")
"""Where the tests' process works: it is not the checkout, in which an owner may have started a stack."""
PURE = Path(__file__).parent / "unit"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` means: a process a core; none for a single file, which two would not finish sooner."""
    files = {argument.partition("::")[0] for argument in config.args}
    single_file = len(files) == 1 and files.pop().endswith(".py")
    if single_file:
        return 0
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedFixtureScheduling | None:
    """Have files that share a costly fixture run by one process, where files are what is handed out."""
    return SharedFixtureScheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Make LiteLLM's environment before there are several processes that would."""
    make_sidecar_environment()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks; end a process of the run, and with it its services, when the run is killed."""
    markers.register(config)
    is_worker = bool(os.environ.get("PYTEST_XDIST_WORKER"))
    if is_worker or not config.option.numprocesses:  # the workers begin in the folder of what starts them
        _leave_the_owners_settings()
    if is_worker:
        process.die_with_parent(os.getppid(), signal.SIGTERM)


def _leave_the_owners_settings() -> None:
    """Work where neither `.env` nor `.keys/` is, and without the variables that settings are read from."""
    for name in {variable for field in Settings.model_fields for variable in names_of(Settings, field)}:
        os.environ.pop(name, None)
    os.chdir(WORKING_FOLDER.name)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark each test before `-m` chooses; skip those of parts of the sidecar that the run leaves out."""
    markers.mark(item)
    sidecar_parts.skip_own_tests(item)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make LiteLLM's environment where pytest was started by other means than `make test`."""
    if all(item.path.is_relative_to(PURE) for item in session.items) or session.config.option.collectonly:
        return
    make_sidecar_environment()


def make_sidecar_environment() -> None:
    """Install LiteLLM where it is missing."""
    try:
        process_specs.sidecar_python()
    except NotInstalled:
        subprocess.run(["make", "setup-sidecar"], cwd=environments.CHECKOUT, check=True)  # noqa: S607 -- any


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the gateway does."""
    return "asyncio"


def _memory_folder() -> Path | None:
    """Returns a folder in memory, without what killed runs left there; None where it has no room.

    A database is hundreds of files: on a disk they take ten times the CPU.
    """
    folder = Path("/dev/shm")  # noqa: S108 -- in it a folder with a name of its own is made
    for left in folder.glob(f"{FOLDER_PREFIX}*"):
        if not lives(int(left.name.split("-")[-2])):  # its run was killed
            shutil.rmtree(left, ignore_errors=True)
    has_room = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > MEMORY_FOLDER_BYTES
    return folder if has_room and "TMPDIR" not in os.environ else None


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    """Where this run's services keep data and logs; open to `nobody`, whom Postgres may run as."""
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=_memory_folder()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(service_folder: Path) -> Iterator[str]:
    """The address of a real Postgres, shared by the run; use `database_url` for tables of your own."""
    port = probe.free_port()
    yield from _served(
        postgres_spec(service_folder, port, PASSWORD, durable=False),
        service_folder,
        address_of_postgres(port, PASSWORD),
    )


@pytest.fixture(scope="session")
def migrated_database(postgres_url: str) -> str:
    """The name of a database that has the schema; to copy it takes a tenth of the time."""
    name = "migrated"

    async def create() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        await schema.migrate(_address(postgres_url, name))

    asyncio.run(create())
    return name


@pytest.fixture
async def database_url(postgres_url: str, migrated_database: str) -> AsyncIterator[str]:
    """The address of a database of this test's own, with the schema."""
    async with _own_database(postgres_url, f"TEMPLATE {migrated_database}") as address:
        yield address


@pytest.fixture
async def empty_database_url(postgres_url: str) -> AsyncIterator[str]:
    """The address of an empty database of this test's own."""
    async with _own_database(postgres_url, "") as address:
        yield address


@asynccontextmanager
async def _own_database(postgres_url: str, options: str) -> AsyncGenerator[str]:
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"CREATE DATABASE {name} {options}")
        yield _address(postgres_url, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


def _address(postgres_url: str, database: str) -> str:
    return f"{postgres_url.rpartition('/')[0]}/{database}"


@pytest.fixture(scope="session")
def limits_redis_url(service_folder: Path) -> Iterator[str]:
    """The address of a real Valkey that never evicts, shared by the run: choose keys of your own."""
    yield from _valkey("limits", service_folder)


@pytest.fixture(scope="session")
def cache_redis_url(service_folder: Path) -> Iterator[str]:
    """The address of a real Valkey that evicts the least recently used, shared by the run."""
    yield from _valkey("cache", service_folder)


@pytest.fixture(scope="session")
def all_providers(service_folder: Path, cache_redis_url: str) -> Iterator[AllProviders]:
    """A real sidecar with a deployment of each family, all played by the scripted provider."""
    with run_all_providers(service_folder, cache_redis_url) as running:
        yield running


@pytest.fixture
def roomy_path() -> Iterator[Path]:
    """A folder like `tmp_path` for a Postgres of one's own, which may have to run as `nobody`."""
    with tempfile.TemporaryDirectory(prefix="llm-proxy-test-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    return probe.free_port()


def _valkey(purpose: ValkeyPurpose, folder: Path) -> Iterator[str]:
    port = probe.free_port()
    yield from _served(valkey_spec(purpose, folder, port, PASSWORD), folder, valkey_url(port, PASSWORD))


def _served(program: process.ProcessSpec, folder: Path, url: str) -> Iterator[str]:
    running = process.start(program, folder / "logs")
    try:
        process.wait_until_ready([running])
        yield url
    finally:
        process.stop([running])
