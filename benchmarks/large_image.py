"""Peak memory and seconds of one large picture: `python -m benchmarks.large_image [--model demo] [--side 4096]`."""

import argparse
import io
import resource
import threading
import time

from PIL import Image

from engine import EngineConfig, Event, Failed, Finished, GenerationParams
from engine.worker.core import EngineCore

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1)
    args = parser.parse_args()
    outcome: list[Event] = []
    done = threading.Event()

    def emit(event: Event) -> None:
        if isinstance(event, Finished | Failed):
            outcome.append(event)
            done.set()

    core = EngineCore(EngineConfig(args.model, args.device, args.dtype), emit)
    loaded = peak()
    core.submit("large", GenerationParams("a red circle", args.side, args.side, args.steps, 4.5, seed=0))
    started = time.monotonic()
    while core.busy:
        core.step()
    done.wait()
    (event,) = outcome
    if not isinstance(event, Finished):
        raise SystemExit(f"failed: {event}")
    side = Image.open(io.BytesIO(event.image)).size
    print(f"{core.model.id} on {core.model.device} in {core.model.dtype}: {side[0]}x{side[1]}, {args.steps} steps")
    print(f"seconds   {time.monotonic() - started:.1f} ({event.timings})")
    print(f"peak RSS  {peak():.0f} MiB ({loaded:.0f} MiB once loaded)")
    print(f"PNG       {len(event.image) / MIB:.1f} MiB")


def peak() -> float:
    """Largest resident set of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
