"""Which Pods may reach which, by the chart's NetworkPolicies."""

import ipaddress

import pytest
from chart import (
    CASES,
    NAMESPACE,
    Object,
    Peer,
    case,
    labels_of,
    may_reach,
    needs_helm,
    objects_of,
    of_kind,
    pods_of,
    selects,
)

from llm_proxy.sidecar.without_metadata import METADATA

pytestmark = needs_helm
DNS = Peer({"k8s-app": "kube-dns"}, "kube-system")
STRANGER = Peer({"app": "stranger"})
OTHER_NAMESPACE = Peer({"app.kubernetes.io/component": "gateway"}, "other")
INTERNET = Peer(address="104.18.6.192")
INTERNET_V6 = Peer(address="2606:4700::6812:6c0")
API_SERVER = Peer(address="10.96.0.1")


def peer(objects: list[Object], component: str) -> Peer:
    return Peer(labels_of(objects, component))


@pytest.mark.parametrize("name", CASES)
def test_only_the_gateway_reaches_sidecars(name: str) -> None:
    """Not the console, not a store, not another Pod of the namespace, not the same labels elsewhere."""
    objects = case(name)
    sidecar = peer(objects, "sidecar")
    assert may_reach(objects, peer(objects, "gateway"), sidecar, 4100)
    assert not may_reach(objects, peer(objects, "gateway"), sidecar, 22)
    own = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods_of(objects)}
    others = [peer(objects, component) for component in own - {"gateway"}]
    for other in [*others, STRANGER, OTHER_NAMESPACE, INTERNET]:
        assert not may_reach(objects, other, sidecar, 4100)


@pytest.mark.parametrize("name", CASES)
def test_no_pod_reaches_a_metadata_service_or_the_cluster(name: str) -> None:
    """Whatever the port; the list is the one that compose's sidecars block."""
    objects = case(name)
    addresses = [str(ipaddress.ip_network(one).network_address) for one in METADATA]
    assert {"169.254.169.254", "fd00:ec2::254"} <= set(addresses)
    for _, pod in pods_of(objects):
        source = Peer(pod["metadata"]["labels"])
        for port in (80, 443, 5432, 6379, 8080):
            for address in addresses:
                assert not may_reach(objects, source, Peer(address=address), port), (address, port)
            assert not may_reach(objects, source, Peer(address="::ffff:169.254.169.254"), 443)
        assert not may_reach(objects, source, API_SERVER, 443)
        assert not may_reach(objects, source, API_SERVER, 6443)
        assert not may_reach(objects, source, STRANGER, 443)


@pytest.mark.parametrize("name", CASES)
def test_every_pod_is_selected_in_both_directions(name: str) -> None:
    """A Pod without a policy would be open."""
    objects = case(name)
    policies = of_kind(objects, "NetworkPolicy")
    for _, pod in pods_of(objects):
        mine = [one for one in policies if selects(one["spec"]["podSelector"], pod["metadata"]["labels"])]
        assert {way for one in mine for way in one["spec"]["policyTypes"]} == {"Ingress", "Egress"}


@pytest.mark.parametrize("name", CASES)
def test_providers_and_names_are_reached(name: str) -> None:
    """443 at public addresses, in both families; DNS by both protocols; from the stores neither."""
    objects = case(name)
    for component in ("gateway", "sidecar"):
        source = peer(objects, component)
        assert may_reach(objects, source, INTERNET, 443)
        assert may_reach(objects, source, INTERNET_V6, 443)
        assert not may_reach(objects, source, INTERNET, 80)
        assert may_reach(objects, source, DNS, 53, "UDP")
        assert may_reach(objects, source, DNS, 53)
        assert not may_reach(objects, source, Peer(DNS.labels, NAMESPACE), 53, "UDP")


def test_stores_of_a_trial_are_reached_by_those_that_use_them() -> None:
    """The limits by the gateway alone; sidecars log calls and cache; nothing leaves a store."""
    objects = case("trial-of-models")
    reached = {
        (store, component)
        for store, port in (("postgres", 5432), ("limits", 6379), ("cache", 6379))
        for component in ("gateway", "sidecar", "console", "migrate", "config-check")
        if may_reach(objects, peer(objects, component), peer(objects, store), port)
    }
    assert reached == {
        *(("postgres", one) for one in ("gateway", "sidecar", "console", "migrate")),
        ("limits", "gateway"),
        ("cache", "gateway"),
        ("cache", "sidecar"),
    }
    assert not may_reach(objects, STRANGER, peer(objects, "postgres"), 5432)
    assert not may_reach(objects, peer(objects, "postgres"), INTERNET, 443)


def test_outside_stores_are_reached_where_the_values_say() -> None:
    """Anywhere by default, at the named networks else."""
    outside, inside = Peer(address="52.3.4.5"), Peer(address="10.20.1.2")
    objects = case("production")
    for component in ("gateway", "sidecar", "migrate"):
        assert may_reach(objects, peer(objects, component), outside, 5432)
        assert may_reach(objects, peer(objects, component), inside, 5432)
    objects = case("everything")
    for component in ("gateway", "sidecar", "migrate", "console"):
        assert not may_reach(objects, peer(objects, component), outside, 5432)
        assert may_reach(objects, peer(objects, component), inside, 5432)
    assert may_reach(objects, peer(objects, "sidecar"), Peer({"app": "vllm"}), 8000)
    assert not may_reach(objects, peer(objects, "gateway"), Peer({"app": "vllm"}), 8000)


def test_callers_and_the_console_reach_the_gateway() -> None:
    """Everyone by default; those that are named, and the console, else."""
    gateway = peer(case("production"), "gateway")
    assert may_reach(case("production"), STRANGER, gateway, 7007)
    assert may_reach(case("production"), INTERNET, gateway, 7007)
    objects = case("everything")
    gateway = peer(objects, "gateway")
    assert not may_reach(objects, STRANGER, gateway, 7007)
    assert may_reach(objects, Peer({"app": "nginx"}, "ingress-nginx"), gateway, 7007)
    assert may_reach(objects, peer(objects, "console"), gateway, 7007)


def test_credentials_of_the_machine_are_reached_where_the_operator_allows_it() -> None:
    """By sidecars alone."""
    objects = objects_of({"networkPolicy": {"sidecarMetadata": ["169.254.170.23/32"]}})
    pods = Peer(address="169.254.170.23")
    assert may_reach(objects, peer(objects, "sidecar"), pods, 80)
    assert not may_reach(objects, peer(objects, "gateway"), pods, 80)
    assert not may_reach(objects, peer(objects, "sidecar"), Peer(address="169.254.169.254"), 80)
