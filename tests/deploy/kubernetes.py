"""The manifests of deploy/kubernetes as kubectl renders them, and a pod's container run without Kubernetes."""

import contextlib
import functools
import http.client
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .dockerfile import ENVIRONMENT, ROOT, exec_form

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
RANDOM_USER = 54321
STAND_IN = {"/weights": "/mnt"}
"""Mount points that this machine may lack, and others that it has."""
Manifest = dict[str, Any]


@functools.cache
def render(folder: Path) -> list[Manifest]:
    """Objects of a kustomization."""
    if KUBECTL is None:
        pytest.skip("needs kubectl")
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return list(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> list[Manifest]:
    return render(FOLDER / "overlays" / name)


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """The one object of this kind."""
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


@dataclass(frozen=True)
class Pod:
    """The pod of a rendered Deployment."""

    manifests: list[Manifest]

    @property
    def spec(self) -> Manifest:
        spec: Manifest = only(self.manifests, "Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        [container] = self.spec["containers"]
        return dict(container)

    @property
    def settings(self) -> dict[str, str]:
        """Variables that the manifests set."""
        maps = {item["metadata"]["name"]: item["data"] for item in self.manifests if item["kind"] == "ConfigMap"}
        variables: dict[str, str] = {}
        for source in self.container["envFrom"]:
            variables |= maps[source["configMapRef"]["name"]]
        return variables | {item["name"]: item["value"] for item in self.container["env"]}

    def port(self, name: str) -> int:
        [port] = [port["containerPort"] for port in self.container["ports"] if port["name"] == name]
        return int(port)


@dataclass(frozen=True)
class RunningPod:
    """The container's process, and the port that it listens on in place of its own."""

    pod: Pod
    process: subprocess.Popen[str]
    port: int
    log: Path

    def probe(self, name: str) -> int:
        """Status of a probe, as the kubelet sends it; 0 without an answer."""
        probe = self.pod.container[name]
        assert self.pod.port(probe["httpGet"]["port"]) == int(ENVIRONMENT["SANA_PORT"])
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=probe["timeoutSeconds"])
        with contextlib.closing(connection):
            try:
                connection.request("GET", probe["httpGet"]["path"])
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                return 0


@contextlib.contextmanager
def running(pod: Pod, folder: Path) -> Iterator[RunningPod]:
    """The image's command as a random user of group 0, on a read-only root, with the pod's volumes and variables."""
    command = [*exec_form("ENTRYPOINT"), *pod.container.get("args", exec_form("CMD"))]
    assert command[0] == "sana"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = ENVIRONMENT | pod.settings
    for path, stand_in in STAND_IN.items():
        variables = {name: value.replace(path, stand_in) for name, value in variables.items()}
    variables |= {"PATH": os.environ["PATH"], "SANA_PORT": str(port)}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # this source tree, on a busy machine
    group = pod.spec["securityContext"]["fsGroup"]
    # Reading stays possible: the interpreter and pytest's folders may be root's alone.
    user = f"setpriv --reuid={RANDOM_USER} --regid=0 --groups={group}"
    user += " --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search --no-new-privs"
    server = shlex.join([sys.executable, "-m", "server.cli", *command[1:]])
    steps = ["set -e", *mounts(pod, folder, group), "mount -o remount,bind,ro /", f"exec {user} {server}"]
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(steps)],
            cwd="/",
            env=variables,
            stdout=output,
            stderr=output,
            text=True,
        ) as process,
    ):
        try:
            yield RunningPod(pod, process, port, log)
        finally:
            process.kill()


def mounts(pod: Pod, folder: Path, group: int) -> list[str]:
    """Commands that mount a folder for each volume, which belongs to the group as the kubelet arranges it."""
    commands = []
    for mount in pod.container["volumeMounts"]:
        volume = folder / mount["name"]
        volume.mkdir()
        os.chown(volume, 0, group)
        volume.chmod(0o2775)
        commands.append(f"mount --bind {volume} {STAND_IN.get(mount['mountPath'], mount['mountPath'])}")
    return sorted(commands, key=lambda command: command.endswith(" /tmp"))  # last, because it hides `folder`


def can_run() -> bool:
    """Whether this user may become another one and mount, and no volume of the pod would hide this checkout."""
    if Path("/tmp") in ROOT.parents:
        return False
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount"))
    return tools and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
