"""A batch whose server and engine are killed at random moments, and stopped once, each time started again.

    python -m benchmarks.batch_chaos --lines 300 --kills 4

Afterwards every image is generated again, alone, and compared. Exit status 1 when a line was lost, wrong or twice.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx2

from .arguments import make_parser, parse
from .batch_files import ENDPOINT, bodies, read_lines, status, submit, wait


def start(folder: str) -> tuple[subprocess.Popen[str], str]:
    """A server in a process group of its own, and its URL."""
    command = [sys.executable, "-m", "server.cli", "serve", "--device", "cpu", "--port", "0", "--log-level", "error"]
    process = subprocess.Popen([*command, "--data", folder], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    return process, re.findall(r"http://\S+", process.stdout.readline())[0]


def end(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Sends the signal to the server and its engine, and waits for the end."""
    os.killpg(process.pid, number)
    process.communicate()


async def survive(folder: str, requests: list[dict[str, Any]], args: argparse.Namespace) -> bool:
    """Prints what became of the lines. Returns whether all are right."""
    rng = random.Random(args.seed)
    signals = [signal.SIGKILL] * args.kills + [signal.SIGTERM]
    rng.shuffle(signals)
    # Moments as numbers of finished lines, so that they fall into the batch on any machine.
    moments = sorted(rng.sample(range(1, max(len(requests) * 9 // 10, 2 + len(signals))), len(signals)))
    batch_id, process, url = "", *start(folder)
    for number, moment in zip(signals, moments, strict=True):
        async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
            batch_id = batch_id or await submit(client, requests)
            while (batch := await status(client, batch_id))["request_counts"]["completed"] < moment:
                if batch["status"] == "completed":
                    break
                await asyncio.sleep(rng.uniform(0.001, 0.02))
            print(f"{number.name} after {batch['request_counts']['completed']} lines")
        end(process, number)
        process, url = start(folder)
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        batch = await wait(client, batch_id)
        output = await read_lines(client, batch["output_file_id"])
        errors = await read_lines(client, batch["error_file_id"])
        verdicts = Counter([await verdict(client, requests, line) for line in output])
    end(process, signal.SIGTERM)
    ids = Counter(line["custom_id"] for line in [*output, *errors])
    twice, missing = sum(count > 1 for count in ids.values()), len(requests) - len(ids)
    print(f"{len(output)} outputs, {len(errors)} errors, {twice} twice, {missing} missing; {dict(verdicts)}")
    return (len(errors), twice, missing, set(verdicts)) == (args.invalid, 0, 0, {"right"})


async def verdict(client: httpx2.AsyncClient, requests: list[dict[str, Any]], line: dict[str, Any]) -> str:
    """Whether the line has the image of the same request alone, byte by byte."""
    alone = (await client.post(ENDPOINT, json=requests[int(line["custom_id"])])).raise_for_status().json()
    return "right" if line["response"]["body"]["data"] == alone["data"] else "wrong"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("batch_chaos", __doc__)
    parser.add_argument("--lines", type=int, default=300, help="lines of the batch (default: %(default)s)")
    parser.add_argument("--invalid", type=int, default=10, help="invalid ones among them (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=4, help="kills with SIGKILL (default: %(default)s)")
    parser.add_argument("--px", default="64,96,128", help="widths and heights in pixels (default: %(default)s)")
    parser.add_argument("--steps", default="4,6,8", help="denoising steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices (default: %(default)s)")
    args = parse(parser, argv, lines=12, invalid=1, kills=1, px="64", steps="2")
    sides, steps = ([int(part) for part in text.split(",")] for text in (args.px, args.steps))
    requests = bodies(args.lines, sides, steps)
    for body in requests[:: max(args.lines // args.invalid, 1)][: args.invalid]:
        body["size"] = "1x1"
    with tempfile.TemporaryDirectory(prefix="sana-batches-", ignore_cleanup_errors=True) as folder:
        return 0 if asyncio.run(survive(folder, requests, args)) else 1


if __name__ == "__main__":
    sys.exit(main())
