"""The simulator runs the real scheduler and admission: what is promised of them must show at small scale."""

import pytest

from benchmarks.simulate import SERVED, WORKLOADS, Workload, image_seconds, simulate, waits_of

SECONDS = 10.0
GPU, DEMO = WORKLOADS["1.6B"], WORKLOADS["demo"]


def test_enough_devices_refuse_nothing_and_finish_everything() -> None:
    fleet, refused = simulate(8, rate=10.0, seconds=SECONDS, workload=GPU)
    arrived = list(GPU.arrivals(10.0, SECONDS, seed=0))
    assert refused == 0
    assert sum(len(device.finished) for device in fleet) == len(arrived)
    assert max(waits_of(fleet, 512)) < 2  # though some wait for steps of 4096 px again and again


def test_too_few_refuse_the_excess_and_hold_what_they_accepted_within_the_bound() -> None:
    fleet, refused = simulate(1, rate=60.0, seconds=5 * SECONDS, workload=GPU)
    (device,) = fleet
    arrived = list(GPU.arrivals(60.0, 5 * SECONDS, seed=0))
    assert len(device.finished) + refused == len(arrived)
    assert 0 < refused < len(arrived)
    alone = sum(image_seconds(request, GPU.costs) for request, _ in device.finished)
    assert device.busy_seconds < alone  # packing is cheaper than one by one
    assert device.now <= 5 * SECONDS + SERVED.max_queue_seconds
    small, large = waits_of(fleet, 512), waits_of(fleet, 4096)
    assert max(small) < max(large)  # small ones pass large ones by


FEW_LARGE = Workload(((256, 0.97), (1024, 0.03)), DEMO.costs)
ALIKE = Workload(((480, 0.5), (512, 0.5)), DEMO.costs)


@pytest.mark.parametrize("workload", [DEMO, FEW_LARGE, ALIKE, GPU], ids=["demo", "few large", "alike", "1.6B"])
def test_three_times_too_much_keeps_nobody_waiting_far_beyond_what_the_queue_may_hold(workload: Workload) -> None:
    """With a fixed share of a fifth the 512 px pictures of the demo's mix waited for up to 268 s."""
    fleet, refused = simulate(1, 3 / workload.mean_seconds, 20 * SECONDS, workload)
    assert refused > 0
    waits = {side: waits_of(fleet, side) for side, _ in workload.mix}
    assert all(len(each) > 3 for each in waits.values())  # of every size some are accepted
    assert max(map(max, waits.values())) <= 1.55 * SERVED.max_queue_seconds


def test_eight_devices_do_the_work_of_eight() -> None:
    one, _ = simulate(1, rate=30.0, seconds=SECONDS, workload=GPU)
    eight, _ = simulate(8, rate=240.0, seconds=SECONDS, workload=GPU)
    rates = [sum(len(d.finished) for d in fleet) / max(d.now for d in fleet) for fleet in (one, eight)]
    assert rates[1] > 7 * rates[0]
