"""The simulator runs the real scheduler: what is promised of it must show at small scale."""

from benchmarks.simulate import FLOOR_1600M, SERVED, arrivals, image_seconds, simulate, waits_of

SECONDS = 10.0


def test_enough_devices_refuse_nothing_and_finish_everything() -> None:
    fleet, refused = simulate(8, rate=10.0, seconds=SECONDS, costs=FLOOR_1600M)
    arrived = list(arrivals(10.0, SECONDS, seed=0))
    assert refused == 0
    assert sum(len(device.finished) for device in fleet) == len(arrived)
    assert max(waits_of(fleet, 512)) < 2  # though some wait for steps of 4096 px again and again


def test_too_few_refuse_the_excess_and_hold_what_they_accepted_within_the_bound() -> None:
    fleet, refused = simulate(1, rate=60.0, seconds=5 * SECONDS, costs=FLOOR_1600M)
    (device,) = fleet
    arrived = list(arrivals(60.0, 5 * SECONDS, seed=0))
    assert len(device.finished) + refused == len(arrived)
    assert 0 < refused < len(arrived)
    alone = sum(image_seconds(request, FLOOR_1600M) for request, _ in device.finished)
    assert device.busy_seconds < alone  # packing is cheaper than one by one
    assert device.now <= 5 * SECONDS + SERVED.max_queue_seconds
    small, large = waits_of(fleet, 512), waits_of(fleet, 4096)
    assert max(small) < max(large)  # small ones pass large ones by


def test_eight_devices_do_the_work_of_eight() -> None:
    one, _ = simulate(1, rate=30.0, seconds=SECONDS, costs=FLOOR_1600M)
    eight, _ = simulate(8, rate=240.0, seconds=SECONDS, costs=FLOOR_1600M)
    rates = [sum(len(d.finished) for d in fleet) / max(d.now for d in fleet) for fleet in (one, eight)]
    assert rates[1] > 7 * rates[0]
