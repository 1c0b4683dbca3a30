"""Routing, scaling and the YAML files of the Ray application, without a cluster."""

import asyncio
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("ray", reason="needs the extra ray")

from ray.serve.config import AutoscalingContext
from ray.serve.request_router import PendingRequest
from ray.serve.schema import ServeDeploySchema

from deploy.ray.routing import UntriedFirst
from deploy.ray.scaling import QueueSecondsPolicy
from deploy.ray.settings import read_settings

from ..dockerfile import ROOT


def test_router_ranks_replicas_that_refused_last() -> None:
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "abc"]
    metadata = SimpleNamespace(call_method="generate")

    async def choose(tried: tuple[str, ...]) -> list[set[str]]:
        request = PendingRequest(args=[None, "id", tried], kwargs={}, metadata=metadata)
        ranks = await UntriedFirst.choose_replicas(None, replicas, request)
        return [{replica.replica_id.unique_id for replica in rank} for rank in ranks]

    assert asyncio.run(choose(("a", "c"))) == [{"b"}, {"a", "c"}]
    assert asyncio.run(choose(("a", "b", "c")))[0] < set("abc")
    assert len(asyncio.run(choose(()))) == 1


@pytest.mark.parametrize(
    ("seconds", "replicas"), [([], 1), ([0.0], 1), ([15.0], 1), ([16.0], 2), ([40.0, 1.0], 3), ([0.1, 0.1], 1)]
)
def test_policy_counts_predicted_seconds(seconds: list[float], replicas: int) -> None:
    context = AutoscalingContext(
        **{name: None for name in AutoscalingContext.__init__.__annotations__ if name != "return"}
        | {"aggregated_metrics": {"queue_seconds": dict(enumerate(seconds))}}
    )
    assert QueueSecondsPolicy(15)(context) == (replicas, {})


@pytest.mark.parametrize("name", ["demo.yaml", "gpu.yaml"])
def test_config_files_are_valid(name: str) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray" / name).read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications
    read_settings(application.args)
    assert [deployment.name for deployment in application.deployments] == ["ingress", "engine"]


def test_rayservice_has_the_config_of_gpu_yaml() -> None:
    folder = ROOT / "deploy" / "ray"
    service = yaml.safe_load((folder / "rayservice.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == yaml.safe_load((folder / "gpu.yaml").read_text())
