"""Peak memory and seconds of one large image.

python -m benchmarks.large_image --px 4096
"""

import io
import queue
import resource
import time
from collections.abc import Sequence

from PIL import Image

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, StepReport
from engine.messages import Submit
from engine.worker.core import EngineCore

from .arguments import make_parser, parse

MIB = 2**20


def peak_mib() -> float:
    """Largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("large_image", __doc__)
    parser.add_argument("--model", default="demo", help="as in `sana serve` (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="as in `sana serve` (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="as in `sana serve` (default: %(default)s)")
    parser.add_argument("--px", type=int, default=4096, help="side of the image in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="denoising steps (default: %(default)s)")
    args = parse(parser, argv, px=64)
    events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
    core = EngineCore(EngineConfig(args.model, args.device, args.dtype), events.put)
    loaded = peak_mib()
    params = GenerationParams("a red circle", args.px, args.px, args.steps, core.model.default_guidance, seed=0)
    started = time.monotonic()
    core.submit(Submit("large", params))
    while core.busy:
        core.step()
    core.close()  # waits until the image is encoded: all events are in the queue
    seconds = time.monotonic() - started
    while not isinstance(event := events.get_nowait(), Finished):
        if isinstance(event, Failed):
            raise event.error
    width, height = Image.open(io.BytesIO(event.image)).size
    print(f"{core.model.id} on {core.model.device} in {core.model.dtype}: {width}x{height} px, {args.steps} steps")
    print(f"time      {seconds:.1f} s ({event.timings})")
    print(f"peak RSS  {peak_mib():.0f} MiB ({loaded:.0f} MiB after loading)")
    print(f"PNG       {len(event.image) / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
