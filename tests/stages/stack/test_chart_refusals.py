"""Values that the chart refuses, each with a sentence that says why; and those it takes after all."""

from typing import Any

import pytest
from chart import CASES, Object, needs_helm, objects_of, of_kind, template

pytestmark = needs_helm
PRODUCTION = CASES["production"]


def merged(base: Object, change: Object) -> Object:
    """`base` with a change, object by object, as Helm merges files of values."""
    result = dict(base)
    for name, value in change.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType]
    return result


INSECURE: list[tuple[Object, Object, str]] = [
    (PRODUCTION, {"trialStores": {"postgres": {"enabled": True}}}, "trialStores are for trials"),
    (PRODUCTION, {"trialStores": {"valkey": {"enabled": True}}}, "trialStores are for trials"),
    (PRODUCTION, {"secrets": {"gateway": {"existingSecret": ""}}}, "secrets.gateway.existingSecret is empty"),
    (PRODUCTION, {"secrets": {"sidecar": {"existingSecret": ""}}}, "secrets.sidecar.existingSecret is empty"),
    (PRODUCTION, {"images": {"gateway": {"digest": "", "tag": "latest"}}}, "images.gateway.tag is latest"),
    (PRODUCTION, {"networkPolicy": {"enabled": False}}, "every Pod could reach the sidecars"),
    (PRODUCTION, {"ingress": {"tlsSecretName": ""}}, "ingress.tlsSecretName is empty"),
    (PRODUCTION, {"gateway": {"service": {"type": "LoadBalancer"}}}, "gateway.service.type is LoadBalancer"),
    (PRODUCTION, {"settings": {"LLM_PROXY__ENVIRONMENT": "development"}}, "it is production in every Pod"),
    ({}, {"settings": {"LLM_PROXY__ADMIN_KEY": "x"}}, "settings.LLM_PROXY__ADMIN_KEY is a secret"),
    ({}, {"settings": {"LLM_PROXY__DATABASE_URL": "x"}}, "settings.LLM_PROXY__DATABASE_URL is a secret"),
    ({}, {"settings": {"LLM_PROXY__AGENT_RPMS": 1}}, "settings.LLM_PROXY__AGENT_RPMS is no setting"),
    ({}, {"settings": {"LLM_PROXY__SPOOL_DIR": "/x"}}, "settings.LLM_PROXY__SPOOL_DIR is set by the chart"),
    ({}, {"sidecar": {"env": {"OPENAI_API_KEY": "x"}}}, "sidecar.env.OPENAI_API_KEY is a secret"),
    ({}, {"sidecar": {"env": {"TMPDIR": "/x"}}}, "sidecar.env.TMPDIR is set by the chart"),
    ({}, {"sidecar": {"config": "a: 1", "existingConfigMap": "mine"}}, "are both set"),
    ({}, {"secrets": {"gateway": {"existingSecret": "mine"}}}, "trialStores make their own passwords"),
    (
        PRODUCTION,
        {"secrets": {"gateway": {"values": {"LLM_PROXY__ADMIN_KEY": "x"}}}},
        "secrets.gateway has both existingSecret and values",
    ),
    (PRODUCTION, {"secrets": {"external": {"enabled": True}}}, "one of them makes the Secret"),
    (
        {"profile": "production"},
        {"secrets": {"external": {"enabled": True}}},
        "secrets.external.store.name is empty",
    ),
    ({}, {"console": {"enabled": True}}, "console.url is empty"),
    ({}, {"console": {"enabled": True, "url": "http://console.example.com"}}, "console.url is not https"),
    (
        {"console": {"enabled": True, "url": "https://c.example.com"}},
        {"settings": {"LLM_PROXY__CONSOLE_OIDC_ISSUER": "https://login.example.com"}},
        "needs LLM_PROXY__CONSOLE_OIDC_CLIENT_ID and LLM_PROXY__CONSOLE_OIDC_ROLES",
    ),
    (
        CASES["production-oidc"],
        {"settings": {"LLM_PROXY__CONSOLE_OIDC_ISSUER": "http://login.example.com"}},
        "anyone on the way could sign in as anyone",
    ),
    (
        CASES["production-oidc"],
        {"console": {"ingress": {"enabled": True}}},
        "console.ingress has no tlsSecretName",
    ),
    ({}, {"publicPaths": ["/"]}, "/admin could be called from outside"),
    ({}, {"publicPaths": ["/v1", "/metrics"]}, "/metrics could be called from outside"),
    ({}, {"publicPaths": ["/admin/keys"]}, "/admin could be called from outside"),
    ({}, {"ingress": {"enabled": True}}, "ingress.host is empty"),
    ({}, {"httpRoute": {"enabled": True}}, "httpRoute needs parentRefs"),
    (
        {},
        {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}},
        "gateway.autoscaling.maxReplicas is below minReplicas",
    ),
]


@pytest.mark.parametrize(
    ("base", "change", "sentence"), INSECURE, ids=lambda one: one if isinstance(one, str) else ""
)
def test_an_insecure_or_contradictory_value_is_refused(base: Object, change: Object, sentence: str) -> None:
    """Nothing is rendered, and the sentence says what is wrong."""
    ran = template(merged(base, change))
    assert ran.returncode != 0
    assert sentence in ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"gatway": {}}, "additional properties 'gatway' not allowed"),
        ({"gateway": {"replica": 3}}, "additional properties 'replica' not allowed"),
        ({"gateway": {"replicas": "3"}}, "at '/gateway/replicas'"),
        ({"gateway": {"replicas": 0}}, "at '/gateway/replicas'"),
        ({"sidecar": {"drain": {"noticeSeconds": 1}}}, "at '/sidecar/drain/noticeSeconds'"),
        ({"images": {"sidecar": {"digest": "latest"}}}, "at '/images/sidecar/digest'"),
        ({"profile": "prod"}, "at '/profile'"),
        ({"settings": {"AGENT_RPM": 1}}, "invalid propertyName 'AGENT_RPM'"),
        ({"settings": {"LLM_PROXY__AGENT_RPM": {"a": 1}}}, "at '/settings/LLM_PROXY__AGENT_RPM'"),
        ({"networkPolicy": {"stores": {"cidrs": ["db.example.com"]}}}, "at '/networkPolicy/stores/cidrs/0'"),
        (
            {"gateway": {"resources": {"limits": {"cpu": "1"}}, "x": 1}},
            "additional properties 'x' not allowed",
        ),
    ],
    ids=str,
)
def test_an_unknown_name_or_a_wrong_kind_is_refused(change: Object, place: str) -> None:
    """By the schema, with its place."""
    ran = template(change)
    assert ran.returncode != 0
    assert place in ran.stderr


ACCEPTED: list[Any] = [
    {"networkPolicy": {"enabled": False, "acceptNone": True}},
    {"ingress": {"tlsSecretName": "", "tlsEndsBefore": True}},
    {"gateway": {"service": {"type": "LoadBalancer", "plaintextOk": True}}},
]


@pytest.mark.parametrize("change", ACCEPTED, ids=str)
def test_what_the_operator_consents_to_is_rendered(change: Object) -> None:
    """Each refusal that another part of the cluster can answer for has its word of consent."""
    assert of_kind(objects_of(merged(PRODUCTION, change)), "Deployment")
