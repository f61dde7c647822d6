"""What is examined: the settings, variables, folders and addresses of one installation.

Invariants: what the stack that runs in this folder says of itself fills in what the operator has not set;
nothing is started and nothing is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import SecretStr

from llm_proxy.settings import Settings
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.plan import SIDECAR_LIST_FILE
from llm_proxy.upstream.monitor import read_addresses


@dataclass(frozen=True, slots=True)
class Subject:
    """One installation.

    Attributes:
        settings: As a gateway started here would read them.
        env: The operator's variables.
        config: The sidecars' configuration file.
        gateway_url: The gateway's address.
        folder: Where `.env` and `.keys/` lie.
        public_url: The address that callers use, if it is another one.
        state: The folder of the stack that runs here; None without one.
        launcher_pid: Of that stack.
        checks_providers: Whether each model group is called once.
        variables: The variables that the configuration may refer to.
    """

    settings: Settings
    env: OperatorEnv
    config: Path
    gateway_url: str
    folder: Path = field(default_factory=Path.cwd)
    public_url: str | None = None
    state: Path | None = None
    launcher_pid: int | None = None
    checks_providers: bool = False
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def today(self) -> date:
        """The date in UTC."""
        return datetime.now(UTC).date()

    @property
    def database_url(self) -> str | None:
        """The address of Postgres; None without one."""
        return _text(self.settings.database_url)

    @property
    def limits_url(self) -> str | None:
        """The address of the limits store; None without one."""
        return _text(self.settings.limits_redis_url)

    @property
    def cache_url(self) -> str | None:
        """The address of the cache's store; None without one."""
        return _text(self.settings.cache_redis_url)

    @property
    def sidecar_key(self) -> str:
        """The gateway's key at the sidecars."""
        return next(iter(self.settings.sidecar_keys), "")

    @property
    def spool(self) -> Path:
        """The folder of records that wait."""
        return self.state / "spool" if self.state is not None else self.settings.spool_dir

    def sidecar_urls(self) -> tuple[str, ...]:
        """Returns the sidecars' addresses; a name with several addresses is one."""
        if self.state is not None:
            return read_addresses([f"@{self.state / SIDECAR_LIST_FILE}"])
        return read_addresses(self.settings.litellm_proxy_url)


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
