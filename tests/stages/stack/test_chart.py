"""The chart's objects: valid for Kubernetes, hardened, complete, and right about what ends when."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import (
    CASES,
    CHART,
    DIGEST,
    ROOT,
    VALIDATE,
    Object,
    case,
    needs_helm,
    objects_of,
    of_kind,
    one,
    pods_of,
    selects,
)

from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.responses.dialect import responses_dialect
from llm_proxy.dialects.routes import inference_routes
from llm_proxy.edge.auth import ROUTE_ACCESS
from llm_proxy.insecure_settings import insecure_console_settings, insecure_settings
from llm_proxy.settings import Settings, load

pytestmark = needs_helm
OWN_API_GROUPS = ("v1", "apps/", "batch/", "autoscaling/", "policy/", "networking.k8s.io/")
"""What Kubernetes itself defines; the others are of operators."""


def all_containers(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    for name, pod in pods_of(objects):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield f"{name}/{container['name']}", pod["spec"], container


def test_kubernetes_accepts_every_object(tmp_path: Path) -> None:
    """By the schemas of its API, with no field that it would drop."""
    files: list[Path] = []
    for name in CASES:
        own = [each for each in case(name) if each["apiVersion"].startswith(OWN_API_GROUPS)]
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump_all(own))
    ran = subprocess.run(
        [VALIDATE, "--strict", "--quiet", *files], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@pytest.mark.parametrize("name", CASES)
def test_every_container_is_hardened(name: str) -> None:
    """The restricted Pod Security Standard and more: a read-only root, no token, bounded resources."""
    faults: list[str] = []
    for place, pod, container in all_containers(case(name)):
        security = container["securityContext"]
        rules = {
            "token": pod["automountServiceAccountToken"] is False,
            "host": not {"hostNetwork", "hostPID", "hostIPC"} & set(pod),
            "links": pod["enableServiceLinks"] is False,
            "pod user": pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0,
            "pod seccomp": pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
            "user": security["runAsNonRoot"] is True,
            "root": security["readOnlyRootFilesystem"] is True,
            "escalation": security["allowPrivilegeEscalation"] is False,
            "privileged": security["privileged"] is False,
            "capabilities": security["capabilities"] == {"drop": ["ALL"]},
            "seccomp": security["seccompProfile"] == {"type": "RuntimeDefault"},
            "volumes": all(
                set(volume) & {"secret", "projected", "configMap", "emptyDir"} for volume in pod["volumes"]
            ),
        }
        for kind in ("requests", "limits"):
            rules |= {f"{kind} {what}": what in container["resources"][kind] for what in ("cpu", "memory")}
        faults += [f"{place}: {rule}" for rule, holds in rules.items() if not holds]
    assert faults == []
    accounts = of_kind(case(name), "ServiceAccount")
    assert all(each["automountServiceAccountToken"] is False for each in accounts)


@pytest.mark.parametrize("name", CASES)
def test_no_secret_is_in_a_variable_or_a_config_map(name: str) -> None:
    """Secrets are files; a Pod's description and its environment hold none."""
    for place, _, container in all_containers(case(name)):
        assert "envFrom" not in container, place
        assert all(set(variable) == {"name", "value"} for variable in container.get("env", [])), place
    secret_texts = {
        base64.b64decode(value).decode()
        for each in of_kind(case(name), "Secret")
        for value in each["data"].values()
    }
    others = json.dumps([each for each in case(name) if each["kind"] != "Secret"])
    assert "canary" not in others
    assert [text for text in secret_texts if text in others] == []


@pytest.mark.parametrize("name", CASES)
def test_names_labels_and_ports_fit_together(name: str) -> None:
    """Whatever one object says of another is there."""
    objects = case(name)
    pods = dict(pods_of(objects))
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        selector = workload["spec"]["selector"]
        chosen = [each for each, pod in pods.items() if selects(selector, pod["metadata"]["labels"])]
        assert chosen == [workload["metadata"]["name"]]
    for each in of_kind(objects, "Service"):
        [pod] = [
            pod
            for pod in pods.values()
            if selects({"matchLabels": each["spec"]["selector"]}, pod["metadata"]["labels"])
        ]
        offered = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= offered
    for each in of_kind(objects, "PodDisruptionBudget"):
        assert any(selects(each["spec"]["selector"], pod["metadata"]["labels"]) for pod in pods.values())
    for each in of_kind(objects, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        scaled = one(objects, target["kind"], target["name"])
        assert "replicas" not in scaled["spec"]
    for monitor in of_kind(objects, "ServiceMonitor"):
        found = [
            each
            for each in of_kind(objects, "Service")
            if selects(monitor["spec"]["selector"], each["metadata"]["labels"])
        ]
        assert [each["metadata"]["name"] for each in found] == ["llm-gateway"]
    services = {each["metadata"]["name"] for each in of_kind(objects, "Service")}
    assert set(_backends(objects)) <= services
    identities = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(identities) == len(set(identities))


def _backends(objects: list[Object]) -> Iterator[str]:
    for each in of_kind(objects, "Ingress"):
        yield from (
            path["backend"]["service"]["name"]
            for rule in each["spec"]["rules"]
            for path in rule["http"]["paths"]
        )
    for each in of_kind(objects, "HTTPRoute"):
        yield from (backend["name"] for rule in each["spec"]["rules"] for backend in rule["backendRefs"])


@pytest.mark.parametrize("name", CASES)
def test_what_a_pod_mounts_is_there(name: str) -> None:
    """Volumes, and Secrets and ConfigMaps of this release or named by the operator."""
    objects = case(name)
    made = {each["metadata"]["name"] for each in of_kind(objects, "Secret", "ConfigMap")}
    made |= {each["spec"]["target"]["name"] for each in of_kind(objects, "ExternalSecret")}
    named = {"gateway-keys", "provider-keys", "company-ca", "models"}
    for workload in of_kind(objects, "Deployment", "StatefulSet", "Job"):
        spec = workload["spec"]["template"]["spec"]
        claims = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]}
        assert mounted == {each["name"] for each in spec["volumes"]} | claims
        for volume in spec["volumes"]:
            sources = [volume, *volume.get("projected", {}).get("sources", [])]
            names = [
                each["secret"].get("secretName") or each["secret"]["name"]
                for each in sources
                if "secret" in each
            ]
            names += [each["configMap"]["name"] for each in sources if "configMap" in each]
            assert set(names) <= made | named


def test_sidecars_have_of_the_gateways_secret_its_key_at_them_alone() -> None:
    """Neither the database's owner nor a caller's or an admin's key."""
    for name in CASES:
        objects = case(name)
        spec = one(objects, "Deployment", "-sidecar")["spec"]["template"]["spec"]
        [keys] = [volume["projected"] for volume in spec["volumes"] if volume["name"] == "keys"]
        own, gateways = (source["secret"] for source in keys["sources"])
        assert "items" not in own
        assert gateways["items"] == [{"key": "LLM_PROXY__LITELLM_API_KEY", "path": "LITELLM_MASTER_KEY"}]
        gateway = next(spec for each, spec in pods_of(objects) if each.endswith("-gateway"))["spec"]
        assert own["name"] not in json.dumps(gateway["volumes"])


@pytest.mark.parametrize("name", ["trial", "trial-of-models"])
def test_the_gateway_and_the_console_start_with_what_a_trial_gives_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their own settings read the Pod's variables and files, in production, and refuse nothing."""
    objects = case(name)
    (tmp_path / ".keys").mkdir()
    for key, value in one(objects, "Secret", "-gateway")["data"].items():
        (tmp_path / ".keys" / key).write_text(base64.b64decode(value).decode())
    monkeypatch.chdir(tmp_path)
    for component in ("gateway", "console") if name == "trial-of-models" else ("gateway",):
        [container] = next(pod for each, pod in pods_of(objects) if each.endswith(component))["spec"][
            "containers"
        ]
        with monkeypatch.context() as environment:
            for variable in container["env"]:
                environment.setenv(variable["name"], variable["value"])
            settings = load()
            assert settings.environment == "production"
            assert settings.database_url is not None
            assert settings.limits_redis_url is not None
            assert settings.cache_redis_url is not None
            assert insecure_settings(settings) == []
            if component == "console":
                assert insecure_console_settings(settings) == []


def test_pods_have_as_long_as_their_drain_takes() -> None:
    """The kubelet kills later than gateway and sidecar end their last calls, whatever the values say."""
    drain = {"delaySeconds": 15, "timeoutSeconds": 1200}
    values: Object = {
        "gateway": {"drain": drain},
        "sidecar": {"drain": {"noticeSeconds": 7, "timeoutSeconds": 900}},
    }
    objects = objects_of(values)
    gateway = one(objects, "Deployment", "-gateway")["spec"]
    sidecar = one(objects, "Deployment", "-sidecar")["spec"]
    assert gateway["template"]["spec"]["terminationGracePeriodSeconds"] > 15 + 1200
    assert sidecar["template"]["spec"]["terminationGracePeriodSeconds"] > 7 + 900
    env = {each["name"]: each["value"] for each in gateway["template"]["spec"]["containers"][0]["env"]}
    assert (env["LLM_PROXY__DRAIN_DELAY_S"], env["LLM_PROXY__DRAIN_TIMEOUT_S"]) == ("15", "1200")
    env = {each["name"]: each["value"] for each in sidecar["template"]["spec"]["containers"][0]["env"]}
    assert (env["LLM_PROXY_SIDECAR_LEAVE_S"], env["LLM_PROXY_SIDECAR_DRAIN_S"]) == ("7", "900")
    probe = sidecar["template"]["spec"]["containers"][0]["livenessProbe"]
    assert (
        probe["periodSeconds"] * probe["failureThreshold"] > 900
    )  # a sidecar over its memory drains in its place
    assert gateway["strategy"] == sidecar["strategy"]
    assert sidecar["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert sidecar["minReadySeconds"] >= 30 + 5  # what DNS keeps, and how often a gateway asks


def test_a_changed_configuration_replaces_sidecars_and_nothing_else() -> None:
    """Its digest is in their Pods; a hook judges the new text before anything is replaced."""
    before = objects_of(_with_fixed_secrets("model_list: []\n"))
    after = objects_of(_with_fixed_secrets("model_list: [] # mine\n"))
    changed = {
        name for (name, old), (_, new) in zip(pods_of(before), pods_of(after), strict=True) if old != new
    }
    assert changed == {"gw-llm-proxy-sidecar"}
    [hook] = [each for each in of_kind(after, "Job") if each["metadata"]["name"].endswith("config-check")]
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    texts = {each["data"]["litellm-config.yaml"] for each in of_kind(after, "ConfigMap")}
    assert texts == {"model_list: [] # mine\n"}


def _with_fixed_secrets(config: str) -> Object:
    return {**CASES["production"], "sidecar": {"config": config}}


def test_the_migration_runs_first_where_everything_it_needs_is_there_first() -> None:
    """A database or Secrets of this same release come before it; the gateway migrates at its start, too."""
    hooks = {
        name: one(case(name), "Job", "-migrate")["metadata"]["annotations"]["helm.sh/hook"] for name in CASES
    }
    first = {name for name, hook in hooks.items() if hook == "pre-install,pre-upgrade"}
    assert first == {"production", "production-oidc", "production-large"}
    assert {hooks[name] for name in hooks.keys() - first} == {"post-install,post-upgrade"}
    job = one(case("production"), "Job", "-migrate")["spec"]["template"]["spec"]
    assert "serviceAccountName" not in job  # it would not be there yet


def test_images_are_named_by_digest() -> None:
    """A digest wins over a tag; without either it is the chart's version."""
    images = {container["image"] for _, _, container in all_containers(case("everything"))}
    assert images == {f"llm-proxy-gateway@{DIGEST}", f"llm-proxy-sidecar@{DIGEST}"}
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert f"llm-proxy-gateway:{version}" in {each["image"] for _, _, each in all_containers(case("trial"))}


def test_records_survive_a_pod_in_a_volume_of_its_own() -> None:
    """The volume holds everything that all workers may write there."""
    spec = one(case("production-large"), "StatefulSet", "-gateway")["spec"]
    [claim] = spec["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Mi")) >= 4 * (
        512 + 2048 + 16 + 16
    )
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    [container] = spec["template"]["spec"]["containers"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "spool"]
    [folder] = [each["value"] for each in container["env"] if each["name"] == "LLM_PROXY__SPOOL_DIR"]
    assert mount["mountPath"] == folder


def test_alerts_and_dashboards_are_those_of_the_repository() -> None:
    """One source: the chart's files are links."""
    objects = case("everything")
    [rule] = of_kind(objects, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())
    boards = one(objects, "ConfigMap", "-dashboards")["data"]
    assert boards == {path.name: path.read_text() for path in (ROOT / "deploy" / "grafana").glob("*.json")}


def test_runbooks_objectives_and_the_databases_room_are_the_operators() -> None:
    """What differs between installations is a value; the rest of the rules stays."""
    url = "https://git.example.com/llm-proxy/"
    wanted = {"enabled": True, "runbooksUrl": url, "objectives": {"latency": 0.95}, "databaseGB": 500}
    [rendered] = of_kind(objects_of({"prometheusRule": wanted}), "PrometheusRule")
    source = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())
    changed: dict[str, str] = {}
    for old, new in zip(_rules(source), _rules(rendered["spec"]), strict=True):
        if "alert" in old:
            page = old["annotations"]["runbook_url"]
            assert new == old | {"annotations": old["annotations"] | {"runbook_url": url + page}}
        elif old != new:
            changed["/".join([new["record"], *new["labels"].values()])] = new["expr"]
    assert changed == {
        "llm_proxy:objective:ratio/latency": "vector(0.95)",
        "llm_proxy:capacity:bytes/database": "vector(500e9)",
    }


def _rules(spec: Object) -> list[Object]:
    return [rule for group in spec["groups"] for rule in group["rules"]]


def test_the_public_paths_hold_every_callers_route_and_no_operators() -> None:
    """What is below /internal, /admin and /metrics stays inside."""
    published: list[str] = yaml.safe_load((CHART / "values.yaml").read_text())["publicPaths"]

    def is_public(path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in published)

    table = inference_routes(responses_dialect(None), MESSAGES)
    paths = {path for route in table.routes for path in route.paths}
    paths |= {
        "/v1/usage",
        "/v1/limits",
        "/v1/models",
        "/models",
        "/openai/models",
        "/v1beta/models",
        "/key/info",
    }
    assert sorted(path for path in paths if not is_public(path)) == ["/internal/llm/proxy"]
    operators = {path for _, path in ROUTE_ACCESS if path.startswith("/admin")} | {
        "/metrics",
        "/internal/llm/usage",
    }
    assert [path for path in operators if is_public(path)] == []


def test_streams_pass_the_ways_in_unbuffered_and_as_long_as_a_call_may_last() -> None:
    """Ingress and HTTPRoute wait longer than the gateway's own limit."""
    objects = case("everything")
    annotations = one(objects, "Ingress", "-gateway")["metadata"]["annotations"]
    total = Settings.model_fields["total_timeout_s"].default
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > total
    size = int(annotations["nginx.ingress.kubernetes.io/proxy-body-size"].removesuffix("m")) * 2**20
    assert size >= Settings.model_fields["max_upload_bytes"].default
    for rule in one(objects, "HTTPRoute", "-gateway")["spec"]["rules"]:
        assert all(int(value.removesuffix("s")) > total for value in rule["timeouts"].values())


def test_the_schema_knows_every_value_and_takes_no_other() -> None:
    """An unknown name is refused wherever a name has a meaning."""
    schema: Any = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def walk(node: Any, value: Any, path: str) -> Iterator[str]:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        if "properties" in node:
            if node["additionalProperties"] is not False:
                yield f"{path}: takes unknown names"
            if missing := set(value) ^ (set(node["properties"]) - {"global"}):
                yield f"{path}: {missing}"
            for key in set(value) & set(node["properties"]):
                yield from walk(node["properties"][key], value[key], f"{path}.{key}")

    assert list(walk(schema, values, "values")) == []
