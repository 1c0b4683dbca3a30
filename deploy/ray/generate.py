"""Images for a file of prompts on a Ray cluster. The same command again makes what is missing, after whatever stop.

    python -m deploy.ray.generate prompts.jsonl --out images --model demo --device cpu --gpus 0 --replicas 2

A line is a prompt, or JSON with the fields of a request: {"prompt": ..., "size": ..., "seed": ..., "n": ...}. A Parquet
file has these fields as columns. Objects are named after their content; index.jsonl names those of each row, and
errors.jsonl says why a row has none.
"""

import argparse
import asyncio
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from engine import EngineClient, EngineConfig, EngineUnavailable, Finished, SanaError, configure_logs
from server.prompt_files import parse_entry
from server.writing import OutputError

from .objects import (
    FORMATS,
    ImageObject,
    digest_of,
    image_objects,
    open_place,
    parquet_shard,
    shard_name,
    tar_shard,
)

Row = dict[str, Any]
WRITERS = {"parquet": parquet_shard, "webdataset": tar_shard}
RESULT_FIELDS = ("row", "custom_id", "objects", "seeds", "error")


class Generator:
    """An actor with one device. Called with some rows of the input, it returns a result for each of them."""

    def __init__(self, config: EngineConfig, weights: str, out: str, output_format: str) -> None:
        configure_logs(config.log_level, config.log_format)
        self._weights, self._format, self._place = weights, output_format, open_place(out)
        self._runner = asyncio.Runner()
        self._engine = EngineClient(config)
        self._model = self._runner.run(start(self._engine))

    def __call__(self, item: Row) -> list[Row]:
        return self._runner.run(self._generate(json.loads(item["rows"])))

    async def _generate(self, rows: list[Row]) -> list[Row]:
        plans = [self._plan(row) for row in rows]
        if self._format == "files":
            return [self._result(*each) for each in zip(rows, plans, await self._write_files(plans), strict=True)]
        problem = await self._write_shard([image for plan in plans if isinstance(plan, list) for image in plan])
        return [self._result(row, plan, problem) for row, plan in zip(rows, plans, strict=True)]

    def _plan(self, row: Row) -> list[ImageObject] | str:
        """The images of a row, or why it has none."""
        try:
            return row["error"] or image_objects(row["fields"], self._model, self._weights)
        except SanaError as error:
            return str(error)

    async def _write_files(self, plans: list[list[ImageObject] | str]) -> list[str]:
        async def write(plan: list[ImageObject] | str) -> str:
            try:
                for image in plan if isinstance(plan, list) else ():
                    if not await asyncio.to_thread(self._place.exists, image.file_name):
                        await asyncio.to_thread(self._place.write, image.file_name, await self._image(image))
            except (OutputError, EngineUnavailable):
                raise  # all further rows would fail too
            except SanaError as error:
                return str(error)
            return ""

        return await asyncio.gather(*map(write, plans))

    async def _write_shard(self, images: list[ImageObject]) -> str:
        """Writes the shard of these images unless it exists. Returns why it could not be made, or ""."""
        if not images:
            return ""
        name = shard_name(images, self._format)
        if await asyncio.to_thread(self._place.exists, name):
            return ""
        try:
            files = await asyncio.gather(*map(self._image, images))
        except (OutputError, EngineUnavailable):
            raise
        except SanaError as error:
            return f"another row of the shard failed, run the job again: {error}"
        await asyncio.to_thread(lambda: self._place.write(name, WRITERS[self._format](images, files)))
        return ""

    async def _image(self, image: ImageObject) -> bytes:
        events = self._engine.generate(image.params)
        (file,) = [event.image async for event in events if isinstance(event, Finished)]
        return file

    def _result(self, row: Row, plan: list[ImageObject] | str, problem: str) -> Row:
        """A row of index.jsonl or, with an error, of errors.jsonl; objects are what was made of it."""
        images = [] if problem or isinstance(plan, str) else plan
        files = self._format == "files"
        objects = [image.file_name if files else image.name for image in images]
        seeds = [str(image.params.seed) for image in images]  # beyond the integers of Arrow
        error = plan if isinstance(plan, str) else problem
        return dict(zip(RESULT_FIELDS, (row["row"], row["custom_id"], objects, seeds, error), strict=True))


async def start(engine: EngineClient) -> Any:
    return await engine.start()


def read_rows(path: str) -> Iterator[Row]:
    """The rows of a Parquet file, or the lines of another file, in order, each with its number from 1."""
    import ray

    if path.endswith((".parquet", "/")):
        for number, fields in enumerate(ray.data.read_parquet(path).iter_rows(), start=1):
            given = {name: value for name, value in fields.items() if value is not None and value == value}  # not NaN
            yield {"row": number, "custom_id": str(given.pop("custom_id", "")), "fields": given, "error": ""}
        return
    for number, line in enumerate(ray.data.read_text(path, drop_empty_lines=False).iter_rows(), start=1):
        if line["text"].strip():
            entry = parse_entry(number, line["text"].strip().lstrip("\ufeff"))
            yield {"row": number, "custom_id": entry.name, "fields": entry.fields, "error": entry.error}


def chunks(rows: Iterator[Row], size: int) -> Iterator[Row]:
    """Groups of rows, each as one row of the job: the unit of work, and of a shard."""
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield {"rows": json.dumps(group, default=plain)}
            group = []
    if group:
        yield {"rows": json.dumps(group, default=plain)}


def plain(value: Any) -> Any:
    """A NumPy number of a Parquet file as Python's."""
    return value.item()


def weights_digest(model: str, dtype: str, quantization: str) -> str:
    """Digest of the model's files and of the settings that change its images; computed where the model can be read."""
    from engine.checkpoints.locate import locate_model

    path, _ = locate_model(model, ("bf16", "fp16", ""))
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    parts = [dtype, quantization]
    for file in files:
        with file.open("rb") as opened:
            parts += [str(file.relative_to(path)), hashlib.file_digest(opened, "sha256").hexdigest()]
    return digest_of(parts)


def run(args: argparse.Namespace) -> int:
    """Generates what is missing. Returns the exit status: 1 if a row failed. Raises SanaError."""
    import ray  # here, because it takes seconds, which --help does not need
    from ray.data import ActorPoolStrategy, DataContext

    place = open_place(args.out)
    config = EngineConfig(
        model=args.model,
        device=args.device,
        dtype=args.dtype,
        quantization=args.quantization,
        log_level="critical",
    )
    ray.init(
        address=args.address, log_to_driver=args.verbose, include_dashboard=False if args.address is None else None
    )
    context = DataContext.get_current()
    context.execution_options.preserve_order = True  # rows, and with them shards, are the same after a restart
    context.enable_progress_bars = False  # Ray's count blocks; the bar below counts rows
    weights = ray.get(ray.remote(weights_digest).remote(args.model, args.dtype, args.quantization))
    items = list(chunks(read_rows(args.file), args.rows))
    total = sum(len(json.loads(item["rows"])) for item in items)
    if not total:
        raise SanaError(f"{args.file} must hold at least one prompt, but has none")
    results = ray.data.from_items(items, override_num_blocks=len(items)).flat_map(
        Generator,
        fn_constructor_args=(config, weights, args.out, args.format),
        compute=ActorPoolStrategy(size=args.replicas, max_tasks_in_flight_per_actor=2),
        num_cpus=args.cpus,
        num_gpus=args.gpus,
    )
    index: list[str] = []
    errors: list[str] = []
    with tqdm(total=total, unit="row", file=sys.stderr, dynamic_ncols=True) as bar:
        for result in results.iter_rows():
            (errors if result["error"] else index).append(json.dumps(result, default=list) + "\n")
            bar.update()
    place.write("index.jsonl", "".join(index).encode())
    place.write("errors.jsonl", "".join(errors).encode())
    why = "; errors.jsonl says why the others failed" if errors else ""
    print(f"{len(index)} of {total} rows are done in {args.out}{why}", file=sys.stderr)
    return 1 if errors else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.ray.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = EngineConfig()
    parser.add_argument("file", help="JSONL, text or Parquet file, or a folder of Parquet files that ends with /")
    parser.add_argument("--out", required=True, help="folder that all machines share, or s3://BUCKET/PREFIX")
    parser.add_argument("--format", choices=FORMATS, default="files", help="form of the output (default: %(default)s)")
    rows_help = "rows per unit of work, and per shard (default: %(default)s)"
    parser.add_argument("--rows", type=int, default=64, help=rows_help)
    parser.add_argument("--replicas", type=int, default=1, help="engines, one device each (default: %(default)s)")
    parser.add_argument("--gpus", type=float, default=1, help="GPUs per engine; 0: the CPU (default: %(default)s)")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs per engine (default: %(default)s)")
    parser.add_argument("--address", help="address of the cluster, or auto (default: this machine alone)")
    parser.add_argument("--model", default=defaults.model, help="as of `sana serve` (default: %(default)s)")
    parser.add_argument("--device", default=defaults.device, help="as of `sana serve` (default: %(default)s)")
    parser.add_argument("--dtype", default=defaults.dtype, help="as of `sana serve` (default: %(default)s)")
    parser.add_argument("--quantization", default=defaults.quantization, help="as of `sana serve` (default: none)")
    parser.add_argument("--verbose", action="store_true", help="show the log of the engines")
    args = parser.parse_args(argv)
    if args.device == "cpu" and args.gpus:
        parser.error("--device cpu needs --gpus 0: Ray would wait for a GPU without end")
    args.out = args.out if args.out.startswith("s3://") else str(Path(args.out).resolve())
    args.file = args.file if "://" in args.file else str(Path(args.file).resolve()) + "/" * args.file.endswith("/")
    try:
        return run(args)
    except SanaError as error:
        print(f"sana: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
