"""The chart, rendered by the real Helm: cases of values, their objects, and which Pods may reach which.

`scripts/chart_tools.sh` installs Helm and Kubernetes' schemas into `.helm/`; without them tests are skipped.
`may_reach` reads NetworkPolicies as Kubernetes does (its page "Network Policies"): a Pod that no policy of a
direction selects is open in it; else one rule of one policy has to allow.
"""

import ipaddress
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "llm-proxy"
HELM, VALIDATE = ROOT / ".helm" / "helm", ROOT / ".helm" / "bin" / "kubernetes-validate"
NAMESPACE = "team-llm"
DIGEST = "sha256:" + 64 * "a"
WORKLOADS = ("Deployment", "StatefulSet", "Job")
Object = dict[str, Any]

needs_helm = pytest.mark.skipif(
    not (HELM.exists() and VALIDATE.exists()), reason="no Helm: sh scripts/chart_tools.sh says why"
)

_BY_REFERENCE: Object = {
    "gateway": {"existingSecret": "gateway-keys"},
    "sidecar": {"existingSecret": "provider-keys"},
}
_PRODUCTION: Object = {
    "profile": "production",
    "secrets": _BY_REFERENCE,
    "images": {"gateway": {"digest": DIGEST}, "sidecar": {"digest": DIGEST}},
    "ingress": {"enabled": True, "host": "llm.example.com", "tlsSecretName": "llm-tls"},
}
_ROUTED: Object = {"enabled": True, "parentRefs": [{"name": "public"}]}
CASES: dict[str, Object] = {
    "trial": {},
    "trial-of-models": {
        "secrets": {"sidecar": {"values": {"OPENAI_API_KEY": "canary-provider"}}},
        "sidecar": {
            "config": "model_list: []\n",
            "env": {"OPENAI_API_BASE": "https://models.example.com/v1"},
        },
        "console": {"enabled": True, "url": "http://localhost:7070"},
    },
    "trial-with-own-stores": {
        "trialStores": {"postgres": {"enabled": False}, "valkey": {"enabled": False}},
        "secrets": {
            "gateway": {"values": {"LLM_PROXY__DATABASE_URL": "postgresql://me:canary-database@db/x"}},
            "sidecar": {"values": {"CACHE_REDIS_URL": "redis://:canary-cache@cache:6379"}},
        },
    },
    "production": _PRODUCTION,
    "production-oidc": _PRODUCTION
    | {
        "console": {"enabled": True, "url": "https://console.example.com"},
        "settings": {
            "LLM_PROXY__CONSOLE_OIDC_ISSUER": "https://login.example.com/realm",
            "LLM_PROXY__CONSOLE_OIDC_CLIENT_ID": "console",
            "LLM_PROXY__CONSOLE_OIDC_ROLES": '{"platform": "owner"}',
            "LLM_PROXY__MAX_BODY_BYTES": 33554432,
        },
    },
    "production-large": _PRODUCTION
    | {
        "gateway": {
            "workers": 4,
            "spool": {"persistent": True, "storageClass": "fast"},
            "autoscaling": {
                "enabled": True,
                "minReplicas": 6,
                "maxReplicas": 60,
                "inFlight": {"enabled": True},
            },
        },
        "sidecar": {"autoscaling": {"enabled": True, "minReplicas": 8, "maxReplicas": 200}},
    },
    "everything": {
        "profile": "production",
        "fullnameOverride": "llm",
        "commonLabels": {"team": "platform"},
        "imagePullSecrets": [{"name": "registry"}],
        "images": _PRODUCTION["images"],
        "secrets": {
            "external": {
                "enabled": True,
                "store": {"name": "vault"},
                "gateway": {"key": "llm/gateway"},
                "sidecar": {"key": "llm/sidecar"},
            },
            "restartToken": "2",
        },
        "caBundle": {"existingConfigMap": "company-ca"},
        "settings": {"LLM_PROXY__AGENT_RPM": 20, "LLM_PROXY__TRUSTED_PROXIES": "10.0.0.0/8"},
        "gateway": {
            "replicas": None,
            "serviceAccount": {"annotations": {"example.com/role": "gateway"}},
            "nodeSelector": {"pool": "llm"},
            "tolerations": [{"key": "llm", "operator": "Exists"}],
            "priorityClassName": "high",
            "podLabels": {"mesh": "on"},
            "podAnnotations": {"example.com/a": "b"},
        },
        "sidecar": {
            "existingConfigMap": "models",
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/bedrock"}},
        },
        "console": {
            "enabled": True,
            "url": "https://console.example.com",
            "ingress": {"enabled": True, "tlsSecretName": "console-tls"},
            "httpRoute": _ROUTED,
        },
        "ingress": {"enabled": True, "host": "llm.example.com", "tlsSecretName": "llm-tls"},
        "httpRoute": _ROUTED | {"hostnames": ["llm.example.com"]},
        "networkPolicy": {
            "gatewayFrom": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
            ],
            "dns": {"cidrs": ["169.254.20.10/32"]},
            "stores": {"cidrs": ["10.20.0.0/16"]},
            "sidecarEgress": [
                {"to": [{"podSelector": {"matchLabels": {"app": "vllm"}}}], "ports": [{"port": 8000}]}
            ],
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}


def template(values: Mapping[str, Any], *words: str) -> "subprocess.CompletedProcess[str]":
    """What `helm template` prints for values."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "values.yaml")
        file.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
        command: list[str | Path] = [
            HELM,
            "template",
            "gw",
            CHART,
            "--namespace",
            NAMESPACE,
            "--values",
            file,
            *words,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def objects_of(values: Mapping[str, Any], *words: str) -> list[Object]:
    """The objects that values become."""
    ran = template(values, *words)
    assert ran.returncode == 0, ran.stderr
    return [one for one in yaml.safe_load_all(ran.stdout) if one]


@cache
def case(name: str) -> list[Object]:
    """The objects of a case."""
    return objects_of(CASES[name])


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Those of these kinds."""
    return [one for one in objects if one["kind"] in kinds]


def one(objects: list[Object], kind: str, end: str) -> Object:
    """The one of a kind whose name ends so."""
    [found] = [each for each in of_kind(objects, kind) if each["metadata"]["name"].endswith(end)]
    return found


def pods_of(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The template of each workload's Pods, with the workload's name."""
    for workload in of_kind(objects, *WORKLOADS):
        yield workload["metadata"]["name"], workload["spec"]["template"]


def labels_of(objects: list[Object], component: str) -> dict[str, str]:
    """The labels of a component's Pods."""
    for _, pod in pods_of(objects):
        labels: dict[str, str] = pod["metadata"]["labels"]
        if labels["app.kubernetes.io/component"] == component:
            return labels
    raise LookupError(component)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a Pod by its labels, or an address."""

    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    namespace: str = NAMESPACE
    address: str | None = None


def may_reach(objects: list[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the NetworkPolicies let a connection pass: out of its source, and into its target."""
    return _passes(objects, "Egress", source, target, port, protocol) and _passes(
        objects, "Ingress", target, source, port, protocol
    )


def _passes(objects: list[Object], direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
    if pod.address is not None or pod.namespace != NAMESPACE:
        return True  # no Pod that policies of this namespace select
    policies: list[Object] = [
        one["spec"]
        for one in of_kind(objects, "NetworkPolicy")
        if direction in one["spec"]["policyTypes"] and selects(one["spec"]["podSelector"], pod.labels)
    ]
    rules: list[Object] = []
    for spec in policies:
        rules += spec.get(direction.lower()) or []
    side = "to" if direction == "Egress" else "from"
    return not policies or any(
        _has_port(rule.get("ports"), port, protocol)
        and (not rule.get(side) or any(_is_peer(peer, other) for peer in rule[side]))
        for rule in rules
    )


def _has_port(ports: list[Object] | None, port: int, protocol: str) -> bool:
    return not ports or any(
        one.get("protocol", "TCP") == protocol and one.get("port", port) == port for one in ports
    )


def _is_peer(rule: Object, other: Peer) -> bool:
    if "ipBlock" in rule:
        if other.address is None:
            return False
        address = ipaddress.ip_address(other.address)
        block = rule["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(one) for one in block.get("except", []))
    if other.address is not None:
        return False
    if "namespaceSelector" in rule:
        names = {"kubernetes.io/metadata.name": other.namespace}
        if not selects(rule["namespaceSelector"], names):
            return False
    elif other.namespace != NAMESPACE:
        return False
    return selects(rule.get("podSelector", {}), other.labels)
