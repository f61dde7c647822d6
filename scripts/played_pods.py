"""Pods of a rendered chart, run by `podman kube play`: all a chart says of a Pod but what podman 4.3 lacks.

Kept as rendered: images, commands, variables, users, groups, capabilities, read-only roots, limits, mounts.
Translated: Secrets, ConfigMaps and claims become podman volumes (it has no projected ones, writes Secrets in
base64, lets Pods share an emptyDir's name), Services become names in a network's DNS. Probes are made here.
"""

import base64
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
NETWORK = "llm-proxy-play"
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""
"""For machines without systemd and with cgroups in hybrid mode; harmless elsewhere."""


class PlayFailed(Exception):  # noqa: N818 -- errors are named for the state they report
    """Something did not happen that had to; the message says what."""


def podman(*words: str, check: bool = True, feed: str | None = None) -> str:
    """What podman prints; raises `PlayFailed` with its last lines."""
    ran = subprocess.run(["podman", *words], input=feed, capture_output=True, text=True, check=False)  # noqa: S607 -- by PATH
    if check and ran.returncode:
        raise PlayFailed(f"podman {' '.join(words[:3])}: {ran.stderr[-1500:]}")
    return ran.stdout.strip()


def use_own_configuration(folder: Path) -> None:
    """Makes podman use runc and no systemd, for this process and its children."""
    file = folder / "containers.conf"
    file.write_text(CONFIGURATION, encoding="utf-8")
    os.environ.setdefault("CONTAINERS_CONF", str(file))


@dataclass(slots=True)
class PlayedPod:
    """A Pod that runs.

    Attributes:
        name: Its name, `WORKLOAD-N`.
        spec: Its template's spec, as rendered.
        address: Its address in the network.
        volumes: Volumes that go with it.
    """

    name: str
    spec: Object
    address: str = ""
    volumes: list[str] = field(default_factory=list)

    @property
    def container(self) -> Object:
        """Its only container, as rendered."""
        [found] = self.spec["containers"]
        return found

    @property
    def container_name(self) -> str:
        """Podman's name of it."""
        return f"{self.name}-{self.container['name']}"

    def probe(self, kind: str) -> bool:
        """Whether a probe of the container succeeds now, made as the kubelet makes it."""
        probe = self.container[kind]
        if "exec" in probe:
            return self.run(*probe["exec"]["command"])[0] == 0
        if "tcpSocket" in probe:
            return True
        ports = {one["name"]: one["containerPort"] for one in self.container["ports"]}
        get, get_timeout_s = probe["httpGet"], probe.get("timeoutSeconds", 1)
        request = urllib.request.Request(f"http://{self.address}:{ports[get['port']]}{get['path']}")
        for header in get.get("httpHeaders", []):
            request.add_header(header["name"], header["value"])
        try:
            with urllib.request.urlopen(request, timeout=get_timeout_s) as answer:  # noqa: S310 -- http, to a Pod
                return bool(answer.status < 400)
        except OSError:
            return False

    def wait_until_ready(self, within_s: float = 600) -> None:
        """Waits for its startup and readiness probes; raises `PlayFailed` with its log's end."""
        end = time.monotonic() + within_s
        for kind in ("startupProbe", "readinessProbe"):
            while not self.probe(kind):
                if time.monotonic() > end or not self.is_running():
                    raise PlayFailed(f"{self.name} is not ready: {self.log()[-2000:]}")
                time.sleep(0.5)

    def is_running(self) -> bool:
        """Whether its container runs."""
        return podman("inspect", self.container_name, "--format", "{{.State.Running}}", check=False) == "true"

    def exit_code(self, within_s: float = 120) -> int:
        """How its container ended, once it has."""
        end = time.monotonic() + within_s
        while self.is_running():
            if time.monotonic() > end:
                raise PlayFailed(f"{self.name} does not end: {self.log()[-1000:]}")
            time.sleep(0.3)
        return int(podman("inspect", self.container_name, "--format", "{{.State.ExitCode}}"))

    def log(self) -> str:
        """What its container printed."""
        ran = subprocess.run(
            ["podman", "logs", self.container_name],  # noqa: S607 -- by PATH
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.stdout + ran.stderr

    def run(self, *command: str) -> tuple[int, str]:
        """Runs a command in its container; returns exit code and output."""
        ran = subprocess.run(
            ["podman", "exec", self.container_name, *command],  # noqa: S607 -- by PATH
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    def stop(self) -> None:
        """Sends SIGTERM, waits as long as its spec grants, removes it and what goes with it.

        The container first, as the kubelet does: `podman pod stop` would take its network away at once.
        """
        grace = str(self.spec.get("terminationGracePeriodSeconds", 30))
        podman("stop", "--time", grace, self.container_name)
        self.remove()

    def remove(self) -> None:
        """Removes it at once."""
        podman("pod", "rm", "--force", "--time", "0", self.name, check=False)
        for volume in self.volumes:
            podman("volume", "rm", "--force", volume, check=False)


class PlayedChart:
    """The objects of a rendering, and the Pods of them that run."""

    def __init__(self, objects: list[Object]) -> None:
        self._objects = objects
        self.pods: dict[str, PlayedPod] = {}

    def rendered_anew(self, objects: list[Object]) -> None:
        """Takes another rendering: Pods that start from now on are of it."""
        self._objects = objects

    def find(self, kind: str, end: str) -> Object:
        """The object of a kind whose name ends so."""
        [found] = [
            one for one in self._objects if one["kind"] == kind and one["metadata"]["name"].endswith(end)
        ]
        return found

    def start(self, kind: str, end: str, number: int = 0) -> PlayedPod:
        """Plays a Pod of a workload, with its Services' names."""
        workload = self.find(kind, end)
        template = workload["spec"]["template"]
        pod = PlayedPod(f"{workload['metadata']['name']}-{number}", template["spec"])
        volumes = [self._volume(pod, one) for one in template["spec"]["volumes"]]
        for claim in workload["spec"].get("volumeClaimTemplates", []):  # stays when the Pod goes
            name = f"{claim['metadata']['name']}-{pod.name}"
            podman("volume", "create", name, check=False)
            volumes.append({"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": name}})
        spec = {**template["spec"], "volumes": volumes, "containers": [_without_probes(pod.container)]}
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "labels": template["metadata"]["labels"]},
            "spec": spec,
        }
        aliases = "".join(f",alias={name}" for name in self._services(template["metadata"]["labels"]))
        network = f"{NETWORK}:{aliases.removeprefix(',')}" if aliases else NETWORK
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(manifest, file)
            file.flush()
            podman("kube", "play", "--network", network, file.name)
        infra = podman("pod", "inspect", pod.name, "--format", "{{.InfraContainerID}}")
        networks = json.loads(podman("inspect", infra, "--format", "{{json .NetworkSettings.Networks}}"))
        pod.address = networks[NETWORK]["IPAddress"]
        self.pods[pod.name] = pod
        return pod

    def stop(self, pod: PlayedPod) -> None:
        """Ends a Pod as a rollout does."""
        pod.stop()
        self.pods.pop(pod.name, None)

    def remove_all(self) -> None:
        """Removes every Pod."""
        for pod in self.pods.values():
            pod.remove()
        self.pods.clear()

    def _services(self, labels: dict[str, str]) -> Iterator[str]:
        for one in self._objects:
            if one["kind"] == "Service" and one["spec"]["selector"].items() <= labels.items():
                yield one["metadata"]["name"]

    def _volume(self, pod: PlayedPod, volume: Object) -> Object:
        """A volume of the Pod as a podman volume of its own, filled where it is of Secrets or ConfigMaps."""
        name = f"{pod.name}-{volume['name']}"
        podman("volume", "create", name)
        pod.volumes.append(name)
        folder = Path(podman("volume", "inspect", name, "--format", "{{.Mountpoint}}"))
        user = pod.spec["securityContext"]["runAsUser"]
        os.chown(folder, user, user)
        folder.chmod(0o750)
        for key, content in self._files(volume):
            file = folder / key
            file.write_text(content, encoding="utf-8")
            os.chown(file, 0, user)
            file.chmod(0o440)
        return {"name": volume["name"], "persistentVolumeClaim": {"claimName": name}}

    def _files(self, volume: Object) -> Iterator[tuple[str, str]]:
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if "configMap" in source:
                yield from self.find("ConfigMap", source["configMap"]["name"])["data"].items()
            if "secret" in source:
                secret = source["secret"]
                data = self.find("Secret", secret.get("secretName") or secret["name"])["data"]
                paths = {one["key"]: one["path"] for one in secret.get("items", [])} or {
                    key: key for key in data
                }
                for key, path in paths.items():
                    yield path, base64.b64decode(data[key]).decode()


def _without_probes(container: Object) -> Object:
    """Without ports, too, which podman would publish on this machine."""
    return {key: value for key, value in container.items() if not key.endswith("Probe") and key != "ports"}
