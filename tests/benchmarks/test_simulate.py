"""The simulator runs the real scheduler and admission, so that their guarantees show at small scale."""

import pytest

from benchmarks.simulate import CONFIG, WORKLOADS, Workload, image_seconds, latencies_of, simulate

SECONDS = 10.0
GPU, DEMO = WORKLOADS["1.6B"], WORKLOADS["demo"]


def test_enough_devices_finish_every_request() -> None:
    fleet, refused = simulate(8, rate=10.0, seconds=SECONDS, workload=GPU)
    arrived = list(GPU.arrivals(10.0, SECONDS, seed=0))
    assert refused == 0
    assert sum(len(device.finished) for device in fleet) == len(arrived)
    assert max(latencies_of(fleet, 512)) < 2  # although some wait for steps of 4096 px repeatedly


def test_overload_refuses_and_bounds_the_queue() -> None:
    fleet, refused = simulate(1, rate=60.0, seconds=5 * SECONDS, workload=GPU)
    (device,) = fleet
    arrived = list(GPU.arrivals(60.0, 5 * SECONDS, seed=0))
    assert len(device.finished) + refused == len(arrived)
    assert 0 < refused < len(arrived)
    alone = sum(image_seconds(task, GPU.costs) for task, _ in device.finished)
    assert device.busy_seconds < alone  # packing is cheaper than one by one
    assert device.now <= 5 * SECONDS + CONFIG.max_queue_seconds
    small, large = latencies_of(fleet, 512), latencies_of(fleet, 4096)
    assert max(small) < max(large)  # small images overtake large ones


FEW_LARGE = Workload(((256, 0.97), (1024, 0.03)), DEMO.costs)
ALIKE = Workload(((480, 0.5), (512, 0.5)), DEMO.costs)


@pytest.mark.parametrize("workload", [DEMO, FEW_LARGE, ALIKE, GPU], ids=["demo", "few large", "alike", "1.6B"])
def test_triple_overload_bounds_every_latency(workload: Workload) -> None:
    """With a fixed share of a fifth the 512 px images of the demo's mix waited for up to 268 s."""
    fleet, refused = simulate(1, 3 / workload.mean_seconds, 20 * SECONDS, workload)
    assert refused > 0
    latencies = {side: latencies_of(fleet, side) for side, _ in workload.mix}
    assert all(len(each) > 3 for each in latencies.values())  # some of each size are accepted
    assert max(map(max, latencies.values())) <= 1.55 * CONFIG.max_queue_seconds


def test_eight_devices_scale_the_rate_sevenfold() -> None:
    one, _ = simulate(1, rate=30.0, seconds=SECONDS, workload=GPU)
    eight, _ = simulate(8, rate=240.0, seconds=SECONDS, workload=GPU)
    rates = [sum(len(d.finished) for d in fleet) / max(d.now for d in fleet) for fleet in (one, eight)]
    assert rates[1] > 7 * rates[0]
