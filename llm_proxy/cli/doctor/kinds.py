"""The kinds of findings: code, severity, when, why it matters, how it is mended."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning"]


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding.

    Attributes:
        check: The checks that find it.
        when: When it is found.
        mend: What to do; names in braces are filled in.
    """

    check: str
    severity: Severity
    when: str
    why: str
    mend: str


_UPGRADE = "Upgrade to {fixed} or later, then run this command again."
_SIDECAR_LISTENS = (
    "Let it listen on 127.0.0.1 or on a network that only the gateway reaches; publish no port of it."
)

KINDS: dict[str, FindingKind] = {
    # settings
    "setting-wrong": FindingKind("settings", "critical", "A setting cannot be read.", "No gateway starts with it.", "Correct {name}; docs/configuration.md lists every setting."),
    "start-refused": FindingKind("settings", "critical", "A combination that prevents a start in production.", "The next start in production ends with exit code 2.", "Change the named setting, then `llm-proxy serve`."),
    "setting-unknown": FindingKind("settings", "warning", "A variable is named like a setting and is not one.", "It has no effect: the setting that it should change has its default.", "Correct or remove the variable."),
    # secrets
    "secret-weak": FindingKind("secrets", "critical", "A secret is a known default, short, or of few different characters.", "An attacker who guesses it has its rights.", "Set {name} to the output of `{command}`; docs/rotation.md says how without an outage."),
    "secret-shared": FindingKind("secrets", "critical", "Two secrets are equal.", "An attacker who learns one has the rights of both, and neither can be rotated alone.", "Give {name} a value of its own: `{command}`."),
    "secret-list-long": FindingKind("secrets", "warning", "A secret has more than two values.", "Old values that are no longer needed are still accepted.", "Remove all but the newest of {name}."),
    "secret-file-readable": FindingKind("secrets", "critical", "A file with secrets can be read by other users of the machine.", "Every user and process of the machine has these secrets.", "chmod go= {path}"),
    "store-without-password": FindingKind("secrets", "critical", "A store on another machine is reached without a password.", "Everybody in that network can read and change keys and budgets.", "Give the store a password and write it into {name}."),
    "call-log-as-owner": FindingKind("secrets", "warning", "The sidecars write their call log as the database's owner.", "An attacker who breaks into LiteLLM can read keys, prompts and the audit log.", "`llm-proxy migrate --sidecar-password-file FILE`, then set LLM_CALLS_DATABASE_URL to the address of the role llm_proxy_sidecar."),
    # versions
    "release-malicious": FindingKind("versions, sidecars", "critical", "A release that was published with malicious code.", "It sends the secrets of its machine to an attacker.", "Stop it, replace it by a release of the lock file (`rm -rf .venv-sidecar && make setup`), and rotate every secret it could read."),
    "release-vulnerable": FindingKind("versions, sidecars, postgres, limits-store, cache-store", "critical", "A release with a known vulnerability that reaches this stack.", "The advisory says what an attacker can do.", _UPGRADE),
    "release-unsupported": FindingKind("versions, postgres", "warning", "A release line that gets no fixes any more.", "Its next vulnerability will not be fixed.", _UPGRADE),
    # gateway
    "gateway-away": FindingKind("gateway", "critical", "No gateway answers at the address of the settings.", "No call is served.", "Start it (`llm-proxy serve`, `llm-proxy up`, `docker compose up -d`), or name it with --url."),
    "gateway-down": FindingKind("gateway", "critical", "The gateway says that it serves no calls.", "Every call gets a 503.", "`llm-proxy status` shows the component; its log says why."),
    "gateway-degraded": FindingKind("gateway", "warning", "The gateway serves calls, and a component does not work.", "What the component does is missing: limits, records, a sidecar.", "`llm-proxy status` shows the component; docs/operations.md says what it means."),
    "admin-open": FindingKind("gateway", "critical", "A route for admins or operators answers without a valid key.", "Everybody can read or change keys, limits and records.", "Change the proxy in front of the gateway: it adds a credential to this route, or answers it itself."),
    "sidecar-through-gateway": FindingKind("gateway", "critical", "A route of LiteLLM's own (admin, UI, MCP, documentation) answers at the public address.", "LiteLLM's admin API has had many vulnerabilities.", "Let only the gateway answer at this address; remove the other upstream from the proxy in front."),
    "admin-public": FindingKind("gateway", "warning", "The proxy in front passes `/admin`, `/metrics` or `/internal` on.", "A leaked admin or internal key can be used from anywhere.", "Hide /admin, /metrics and /internal there, as deploy/nginx.conf does."),
    # sidecars
    "sidecar-away": FindingKind("sidecars", "critical", "A sidecar does not answer.", "Without any sidecar no call is served; other sidecars take its calls.", "Look at its log; `llm-proxy up` and compose restart one that has ended, and after a minute one that hangs."),
    "sidecar-starting": FindingKind("sidecars", "warning", "A sidecar answers and is not ready.", "It gets no calls.", "Wait a minute and look again; else its log says why."),
    "sidecar-open": FindingKind("sidecars", "critical", "A sidecar answers without a key, or with a wrong one.", "Everybody who reaches it can call models on your account, without limits.", "Set LITELLM_MASTER_KEY of the sidecar and LLM_PROXY__LITELLM_API_KEY of the gateway to one random key."),
    "sidecar-key-rejected": FindingKind("sidecars", "critical", "A sidecar rejects the gateway's key.", "Every call ends with 502.", "Give LLM_PROXY__LITELLM_API_KEY of the gateway and LITELLM_MASTER_KEY of the sidecars the same value."),
    "sidecar-admin-reachable": FindingKind("sidecars", "critical", "A sidecar serves LiteLLM's admin API, UI, MCP or documentation.", "Everybody in its network, or with a stolen key, can use its vulnerabilities.", "Start sidecars by `llm-proxy sidecar`, which serves none of them; or deny these routes in its network and set DISABLE_ADMIN_UI=True."),
    "sidecar-exposed": FindingKind("sidecars", "critical", "A sidecar of this machine listens on an address that other machines reach.", "Whoever has its key can use your providers' accounts; nothing limits or records such calls.", _SIDECAR_LISTENS),
    "sidecar-not-tls": FindingKind("sidecars", "warning", "A sidecar on a public address is reached without TLS.", "Prompts and the key can be read on the way.", "Use https:// in LLM_PROXY__LITELLM_PROXY_URL, or a private network."),
    # config
    "config-fault": FindingKind("config", "warning", "`config check` finds a fault in the sidecars' configuration.", "LiteLLM ignores or rejects it, silently.", "`llm-proxy config check {file}` names the place."),
    "config-prevents-start": FindingKind("config", "critical", "The sidecars would not start with their configuration.", "The next restart of a sidecar ends it.", "`llm-proxy config check --start {file}` names the place."),
    "config-not-loaded": FindingKind("config", "warning", "The configuration file has changed since the sidecars loaded it.", "Your change has no effect until the sidecars are restarted.", "`llm-proxy reload` (compose: deploy/reload.sh)."),
    # postgres
    "postgres-away": FindingKind("postgres", "critical", "Postgres cannot be used.", "New keys are unknown, budgets cannot be rebuilt, records pile up on the disk.", "Fix what the reason says; `llm-proxy migrate` shows whether Postgres answers."),
    "postgres-read-only": FindingKind("postgres", "critical", "Postgres takes no writes: a standby, or `default_transaction_read_only`.", "No record, no key and no revocation is stored.", "Name the primary in DATABASE_URL, or add target_session_attrs=read-write with all hosts."),
    "postgres-not-durable": FindingKind("postgres", "warning", "`fsync` or `full_page_writes` is off.", "A power cut can destroy the whole database.", "ALTER SYSTEM SET fsync = on; ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();"),
    "postgres-not-tls": FindingKind("postgres", "warning", "Postgres has a public address, and DATABASE_URL does not demand TLS.", "Password, keys' digests and records can be read on the way.", "Add sslmode=verify-full to DATABASE_URL; LLM_PROXY__CA_FILE names its authority."),
    "schema-behind": FindingKind("postgres", "warning", "The database lacks migrations of this version.", "What they bring does not work, and the next start waits for them.", "llm-proxy migrate"),
    "gateway-role-lacks": FindingKind("postgres", "critical", "The gateway's role lacks rights.", "Records, keys or migrations fail where a right is missing.", "Let DATABASE_URL name the owner of the tables, or grant that role to its user: GRANT OWNER TO USER."),
    "sidecar-role-missing": FindingKind("postgres", "warning", "There is no role llm_proxy_sidecar, or it may not write.", "The sidecars' call log is not written: costs of failed and repeated attempts are unknown.", "llm-proxy migrate --sidecar-password-file FILE"),
    "sidecar-role-exceeds": FindingKind("postgres", "critical", "The sidecars' role may do more than write its call log.", "An attacker who breaks into LiteLLM can read keys or change records.", "As the owner of the tables: {statements}"),
    "partitions-short": FindingKind("postgres", "critical", "There are partitions for less than a day ahead.", "After midnight (UTC) records cannot be stored in the database.", "Look in the gateway's log for `postgres rejects a maintenance task`, fix the reason, then restart one gateway: it creates the partitions at its start."),
    "transaction-old": FindingKind("postgres", "warning", "A transaction has been open for more than ten minutes.", "Postgres cannot clean up, and a migration waits for it.", "SELECT pid, usename, state, query FROM pg_stat_activity ORDER BY xact_start LIMIT 5; then SELECT pg_terminate_backend(PID);"),
    "connections-short": FindingKind("postgres", "warning", "Postgres has too few connections for all gateways at once.", "At the next peak calls wait, and then get a 503.", "Raise max_connections or the role's limit, put PgBouncer before it, or add connection_limit={share} to DATABASE_URL."),
    "replication-behind": FindingKind("postgres", "warning", "A standby is more than a minute or 1 GiB behind.", "A failover now loses that much: records, keys, revocations.", "SELECT application_name, state, replay_lag FROM pg_stat_replication; look at that standby's disk and network."),
    "slot-holds-log": FindingKind("postgres", "warning", "A replication slot without a reader keeps more than 5 GiB of log.", "It fills the disk, and Postgres stops.", "SELECT slot_name, active FROM pg_replication_slots; then SELECT pg_drop_replication_slot('NAME') for one without a reader."),
    "transaction-ids-short": FindingKind("postgres", "critical", "More than 1,500 million transaction ids are in use.", "At 2,000 million Postgres takes no writes until it was vacuumed.", "VACUUM (FREEZE, VERBOSE); and find out what stops autovacuum: old transactions, replication slots."),
    "disk-full": FindingKind("postgres", "critical", "The disk of Postgres, as far as it is on this machine, is nearly full.", "Postgres stops when it is full.", "Free space, enlarge the disk, or shorten LLM_PROXY__REQUESTS_RETENTION_DAYS."),
    # redis
    "redis-away": FindingKind("limits-store", "critical", "The limits store cannot be used.", "Limits apply to each replica by itself, calls with a budget are denied (unless set otherwise).", "Fix what the reason says; docs/deployment.md has the forms of addresses."),
    "redis-evicts": FindingKind("limits-store", "critical", "The limits store may evict keys.", "Budgets and running calls' holds disappear when its memory is full.", "CONFIG SET maxmemory-policy noeviction, also in its configuration file; or name a store of their own in LIMITS_REDIS_URL."),
    "redis-evicted": FindingKind("limits-store", "warning", "The limits store has evicted keys since its start.", "Some of them may have been budgets.", "CONFIG SET maxmemory-policy noeviction; delete the counters of budgets (docs/operations.md), which are rebuilt from Postgres."),
    "redis-memory": FindingKind("limits-store", "critical", "The limits store's memory is more than 80 % used.", "When it is full it takes no writes: limits fall back to each replica.", "CONFIG SET maxmemory 512mb (or more), also in its configuration file."),
    "redis-no-limit": FindingKind("limits-store", "warning", "The limits store has no memory limit.", "The kernel may kill it when the machine's memory is used up, by any process.", "CONFIG SET maxmemory 256mb, also in its configuration file."),
    "redis-forgets": FindingKind("limits-store", "warning", "The limits store keeps nothing on the disk and has no replica.", "A restart begins every window anew, and budgets are rebuilt from Postgres, or denied without one.", "CONFIG SET appendonly yes, also in its configuration file."),
    "redis-disk": FindingKind("limits-store", "critical", "The limits store's last write to its disk failed.", "It may take no more writes, and a restart loses what was counted.", "Look at its log and the disk of its folder."),
    "redis-slow": FindingKind("limits-store", "warning", "A command takes the limits store more than a quarter of LLM_PROXY__STORE_TIMEOUT_MS.", "Under load calls time out there, and limits fall back to each replica.", "Move it nearer, look for slow commands (SLOWLOG GET 10), or raise LLM_PROXY__STORE_TIMEOUT_MS."),
    "redis-replica": FindingKind("limits-store", "critical", "The address names a replica.", "It takes no writes.", "Name the primary, or an address that follows it (docs/deployment.md)."),
    "redis-link-down": FindingKind("limits-store", "warning", "A copy of the limits store is more than ten seconds behind.", "A failover now forgets counts.", "Look at the replica's log and network."),
    "redis-clients": FindingKind("limits-store", "warning", "More than 80 % of the accepted connections are in use.", "The next gateway finds none.", "CONFIG SET maxclients 10000, also in its configuration file."),
    "redis-not-tls": FindingKind("limits-store", "warning", "A store on a public address is reached without TLS.", "Its password can be read on the way.", "Use rediss://; LLM_PROXY__CA_FILE names its authority."),
    "cache-away": FindingKind("cache-store", "warning", "The cache's store cannot be used.", "Every look-up is a miss, and a call with an Idempotency-Key gets a 503.", "Fix what the reason says; docs/deployment.md has the forms of addresses."),
    "cache-full": FindingKind("cache-store", "warning", "The cache's store is more than 90 % full and may not evict.", "It takes no new answers; where it is the limits store too, limits stop.", "Give the cache a store of its own with maxmemory-policy allkeys-lru (CACHE_REDIS_URL)."),
    # clock
    "clock-wrong": FindingKind("sidecars, postgres, limits-store", "warning", "A clock is more than two seconds away from this machine's.", "Records are dated wrongly, and windows and tokens end at other times than they say.", "Run an NTP service on both machines; `timedatectl` shows whether one runs."),
    # spool
    "spool-not-writable": FindingKind("spool", "critical", "The spool's folder cannot be written.", "Records are kept in memory only: they are lost in a crash, or when Postgres is unavailable for long.", "mkdir -p {path} && chown USER {path}, with the gateway's user; on a read-only root mount a volume there."),
    "spool-disk-full": FindingKind("spool", "critical", "The spool's disk has too little room.", "While Postgres is unavailable, records are dropped; uploads get a 503.", "Free space, or set LLM_PROXY__SPOOL_DIR to another disk."),
    "spool-growing": FindingKind("spool", "warning", "Records wait in the spool.", "Usage, rebuilt budgets and reports lack them; beyond LLM_PROXY__SPOOL_MAX_BYTES the oldest are dropped.", "Fix the database; the spool empties by itself. If it does not, the gateway's log says what is rejected."),
    "spool-old": FindingKind("spool", "warning", "Records have waited in the spool for more than an hour.", "Something keeps them from the database.", "Start a gateway with this spool: it takes over what dead workers left. Its log says what the database rejects."),
    "spool-rejected": FindingKind("spool", "warning", "Records that the database or this version rejects lie in `rejected.jsonl`.", "They are missing in usage and cost.", "docs/upgrade.md says how to replay them with a version that reads them."),
    # limits of the process
    "files-limit-low": FindingKind("process-limits", "warning", "The process may open fewer files than its connections need.", "Under load connections are refused.", "Raise LimitNOFILE (systemd), ulimits (compose) or `ulimit -n`, or lower LLM_PROXY__MAX_CONNECTIONS."),
    "processes-limit-low": FindingKind("process-limits", "warning", "The user may have fewer than 256 processes and threads.", "Workers and thread pools cannot start.", "Raise LimitNPROC (systemd), pids_limit (compose) or `ulimit -u`."),
    # certificates
    "certificate-ends": FindingKind("certificates", "critical", "A certificate has expired, or expires within 14 days.", "From then on nothing connects there.", "Renew the certificate of {where} and let its server load it."),
    # providers
    "provider-fails": FindingKind("providers", "critical", "A small call of a model group failed.", "Callers of this model get the same error.", "`llm-proxy models --check {name}` repeats it; a 401 means the provider's key."),
    # backups
    "backup-missing": FindingKind("backups", "warning", "No backup of the database is known.", "A lost disk loses keys, records and the audit log.", "`llm-proxy backup --to FILE`; a tool of your own reports by `llm-proxy backup record`."),
    "backup-old": FindingKind("backups", "warning", "The last backup is older than 26 hours.", "A lost disk loses everything since then.", "Look at the log of what makes backups; `llm-proxy backup list` shows the last ones."),
}  # fmt: skip
