"""deploy/kubernetes, rendered by kubectl: checked against the schemas of its objects, and run.

Kubernetes' schemas come from the package kubernetes-validate, those of KEDA, of Prometheus' operator and of the Gateway
API from @kubernetes-models.
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from engine import EngineConfig
from server.cli import build_parser, server_config
from server.flags import serve_flags

from .dockerfile import ENVIRONMENT, ROOT
from .kubernetes import (
    COMPONENTS,
    FOLDER,
    OVERLAYS,
    RANDOM_USER,
    Pod,
    RunningPod,
    can_run,
    only,
    overlay,
    render,
    running,
)

VERSIONS = ["1.30", "1.37"]  # the oldest with preStop's `sleep`, and the newest
CUSTOM = ("HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject")
NODE = ROOT / "tests" / "clients"
WAIT_SECONDS = 240.0  # for a busy machine
SMALL = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2}


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An overlay as users write it: autoscaling, with all components."""
    folder = tmp_path_factory.mktemp("production")
    base = os.path.relpath(FOLDER, folder)
    others = [f"{base}/components/{name}" for name in COMPONENTS if name not in ("monitoring", "gateway")]
    gateway = yaml.safe_load_all((FOLDER / "components" / "gateway" / "route.yaml").read_text())
    text = yaml.safe_dump({"resources": [f"{base}/overlays/autoscaling"], "components": others})
    (folder / "kustomization.yaml").write_text(text)
    return [*render(folder), *gateway]


@pytest.fixture(params=[*OVERLAYS, "production"], ids="overlay-{}".format)  # an item named `gpu` needs one
def manifests(request: pytest.FixtureRequest, production: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return production if request.param == "production" else overlay(request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_match_schemas_of_kubernetes(production: list[dict[str, Any]], version: str) -> None:
    rendered = [*production, *(manifest for name in OVERLAYS for manifest in overlay(name))]
    different = {json.dumps(manifest) for manifest in rendered if manifest["kind"] not in CUSTOM}
    assert len(different) > 10
    for text in sorted(different):
        kubernetes_validate.validate(json.loads(text), version, strict=True)


def test_unknown_field_fails_schema() -> None:
    deployment = json.loads(json.dumps(only(overlay("demo"), "Deployment")))
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 640
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGraceSeconds"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.skipif(not (NODE / "node_modules" / "@kubernetes-models").is_dir(), reason="needs npm ci in tests/clients")
def test_custom_resources_match_their_schemas(production: list[dict[str, Any]]) -> None:
    program = (Path(__file__).parent / "custom_resources.mjs").read_text()
    custom = [manifest for manifest in production if manifest["kind"] in CUSTOM]
    assert {manifest["kind"] for manifest in custom} == set(CUSTOM)
    wrong = json.loads(json.dumps(only(custom, "PodMonitor")))
    wrong["spec"]["podMetricsEndpoints"][0] |= {"intervall": "15s", "interval": "soon"}

    command, objects = ["node", "--input-type=module", "-e", program], json.dumps([*custom, wrong])
    done = subprocess.run(command, cwd=NODE, input=objects, capture_output=True, text=True, check=True, timeout=120)
    malformed, unknown = json.loads(done.stdout)
    assert malformed.startswith("PodMonitor: data/spec/podMetricsEndpoints/0/interval must match pattern")
    assert unknown == "PodMonitor/spec/podMetricsEndpoints/0/intervall is unknown"


def test_selectors_find_pods_and_services(manifests: list[dict[str, Any]]) -> None:
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [only(manifests, "Service")["spec"]["selector"]]
    selectors += [only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]]
    for manifest in manifests:
        if manifest["kind"] == "PodMonitor":
            selectors.append(manifest["spec"]["selector"]["matchLabels"])
            assert manifest["spec"]["podMetricsEndpoints"][0]["port"] == Pod(manifests).container["ports"][0]["name"]
        if manifest["kind"] == "NetworkPolicy":
            selectors.append(manifest["spec"]["podSelector"].get("matchLabels", {}))
        if manifest["kind"] == "ScaledObject":
            assert manifest["spec"]["scaleTargetRef"]["name"] == only(manifests, "Deployment")["metadata"]["name"]
            assert "replicas" not in only(manifests, "Deployment")["spec"]
        if manifest["kind"] == "HTTPRoute":
            [backend] = manifest["spec"]["rules"][0]["backendRefs"]
            ports = [port["port"] for port in only(manifests, "Service")["spec"]["ports"]]
            assert (backend["name"], [backend["port"]]) == (only(manifests, "Service")["metadata"]["name"], ports)
    assert all(selector.items() <= labels for selector in selectors)
    assert {manifest["metadata"].get("namespace", "sana") for manifest in manifests} == {"sana"}


def test_pod_stop_outlasts_longest_request(manifests: list[dict[str, Any]]) -> None:
    pod = Pod(manifests)
    config = server_config(build_parser().parse_args(["serve"]), ENVIRONMENT | pod.settings)
    stop = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"] + max(config.grace_seconds, config.drain_seconds)
    assert pod.spec["terminationGracePeriodSeconds"] >= stop + 15
    assert only(manifests, "Deployment")["spec"]["progressDeadlineSeconds"] > config.engine.start_seconds
    for manifest in manifests:  # a proxy waits as long as a request may take
        if manifest["kind"] == "HTTPRoute":
            assert manifest["spec"]["rules"][0]["timeouts"]["request"] == f"{config.grace_seconds:g}s"
        if manifest["kind"] == "Ingress":
            annotations = manifest["metadata"]["annotations"]
            assert annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"] == f"{config.grace_seconds:g}"
            assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_settings_exist_and_devices_match_gpus(manifests: list[dict[str, Any]]) -> None:
    pod = Pod(manifests)
    assert serve_flags().unknown(pod.settings) == {}
    devices = server_config(build_parser().parse_args(["serve"]), pod.settings).engine.devices
    gpus = int(pod.container["resources"]["limits"].get("nvidia.com/gpu", 0))
    assert sum(device.startswith("cuda") for device in devices) == gpus
    assert pod.container["resources"]["requests"].get("nvidia.com/gpu", "0") == str(gpus)


def test_pod_is_restricted(manifests: list[dict[str, Any]]) -> None:
    """What the Pod Security Standard `restricted`, which the namespace enforces, asks for, and more."""
    pod = Pod(manifests)
    assert pod.spec["securityContext"]["runAsNonRoot"]
    assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "runAsUser" not in pod.spec["securityContext"]  # OpenShift chooses one
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    assert pod.container["securityContext"] == context
    assert not pod.spec["automountServiceAccountToken"]
    assert not pod.spec["enableServiceLinks"]
    kinds = {kind for volume in pod.spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret"}


def test_caches_are_in_volumes(manifests: list[dict[str, Any]]) -> None:
    pod = Pod(manifests)
    paths = [mount["mountPath"] for mount in pod.container["volumeMounts"]]
    variables = ENVIRONMENT | pod.settings
    for name in ("HF_HOME", "TRITON_CACHE_DIR", "HOME"):
        assert any(Path(variables[name]).is_relative_to(path) for path in paths), name


def test_openshift_component_leaves_group_to_cluster(production: list[dict[str, Any]]) -> None:
    assert "fsGroup" not in Pod(production).spec["securityContext"]


def test_operators_rules_are_those_of_prometheus() -> None:
    ours = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())
    assert only(overlay("autoscaling"), "PrometheusRule")["spec"] == ours


def test_scaling_query_reads_series_of_pods() -> None:
    """tests/deploy/test_watching.py sends it to Prometheus."""
    scaled = only(overlay("autoscaling"), "ScaledObject")
    assert int(scaled["spec"]["triggers"][0]["metadata"]["threshold"]) < EngineConfig.max_queue_seconds


def wait_for(pod: RunningPod, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert pod.process.poll() is None, pod.log.read_text()
        assert time.monotonic() < end, pod.log.read_text()
        time.sleep(0.2)


@pytest.mark.skipif(not can_run(), reason="needs root, unshare, setpriv, mount, and a checkout outside of /tmp")
def test_demo_pod_runs(tmp_path: Path) -> None:
    """A random user on a read-only root: the probes while it loads, generates and stops."""
    with running(Pod(overlay("demo")), tmp_path) as pod:
        wait_for(pod, lambda: pod.probe("startupProbe") == 200)
        assert (pod.probe("readinessProbe"), pod.probe("livenessProbe")) == (503, 200)  # the model loads
        wait_for(pod, lambda: pod.probe("readinessProbe") == 200)
        proc = Path(f"/proc/{pod.process.pid}")
        assert f"\nUid:\t{RANDOM_USER}\t{RANDOM_USER}\t" in (proc / "status").read_text()
        [root] = [line.split() for line in (proc / "mountinfo").read_text().splitlines() if line.split()[4] == "/"]
        assert "ro" in root[5].split(",")
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{pod.port}", timeout=WAIT_SECONDS) as client,
            concurrent.futures.ThreadPoolExecutor(1) as pool,
        ):
            answer = client.post("/v1/images/generations", json={**SMALL, "response_format": "url"})
            assert answer.status_code == 200, answer.text
            assert client.get(answer.json()["data"][0]["url"]).content.startswith(b"\x89PNG")
            body = {**SMALL, "size": "256x256", "num_inference_steps": 50}
            last = pool.submit(client.post, "/v1/images/generations", json=body)
            wait_for(pod, lambda: "sana_running_images 1.0" in client.get("/metrics").text)
            pod.process.terminate()  # the preStop of a pod only sleeps before that
            wait_for(pod, lambda: pod.probe("readinessProbe") == 503)
            assert pod.probe("livenessProbe") == 200  # else the kubelet would kill it
            assert last.result().status_code == 200
        assert pod.process.wait(pod.pod.spec["terminationGracePeriodSeconds"]) == 0
        log = pod.log.read_text()
        assert "Traceback" not in log
        assert json.loads(log.splitlines()[0])
