"""`llm-proxy doctor` behind a real PgBouncer in transaction mode."""

from pathlib import Path

from pgbouncer import run_pgbouncer

from llm_proxy.cli.doctor.findings import DoctorFinding, NotChecked
from llm_proxy.cli.doctor.stores import check_postgres
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.settings import load
from llm_proxy.stack.operator_env import OperatorEnv


async def test_a_pooler_shares_connections_out(
    postgres_url: str, database_url: str, service_folder: Path, tmp_path: Path
) -> None:
    """Forty workers do not need forty times ten connections of the server; the rest is judged as ever."""
    folder = service_folder / "doctor-pgbouncer"
    folder.mkdir(mode=0o755)
    with run_pgbouncer(folder, postgres_url, "transaction", {}) as pooler:
        url = f"{pooler.rpartition('/')[0]}/{database_url.rpartition('/')[2]}"
        settings = load(database_url=url, workers=40)
        found = await check_postgres(Subject(settings, OperatorEnv({}), tmp_path, "http://127.0.0.1:1"))
    assert {one.code for one in found if isinstance(one, DoctorFinding)} == {
        "partitions-short",  # no gateway has made any
        "postgres-not-durable",  # the tests' server
    }
    assert "connections for all gateways" in {one.what for one in found if isinstance(one, NotChecked)}
