"""Every command of `benchmarks` and `recipes` runs with `--tiny`, on the CPU, and prints its figures."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.live import serve
from engine.models import dc_ae_blocks, sana_blocks

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, tuple[list[str], str]] = {
    "benchmarks.batch_chaos": ([], r"11 outputs, 1 errors, 0 twice, 0 missing; \{'right': 11\}"),
    "benchmarks.batches": ([], r"one batch file +\d+\.\d\d images/s(.*\n)+ratio of p95 +\d+\.\d\d \(target"),
    "benchmarks.beside_busy": ([], r"ratio +\d+\.\d\d \(target: at most 2\.5\)"),
    "benchmarks.beside_large": ([], r"ratio of p95 +\d+\.\d\d \(target"),
    "benchmarks.chaos": ([], r"4 requests in 0\.5 s, 1 kills"),
    "benchmarks.cpu": ([], r"one guided step\n +sana-serve +\d\.\d{4} s +1\.00x(.*\n)+demo alone \d+\.\d{3} s"),
    "benchmarks.gpu": ([], r"PSNR \d+\.\d dB to the same weights in fp32"),
    "benchmarks.http_overhead": ([], r"added per image +p50 +-?\d+\.\d ms .* of 1"),
    "benchmarks.kernels": ([], r"denoise: \d+\.\d\d ms, \d+ launches, busy \d+\.\d\d ms"),
    "benchmarks.large_image": ([], r"demo on cpu in float32: 64x64 px, 1 steps\n.*\npeak RSS +\d+ MiB"),
    "benchmarks.policies": ([], r"same shape +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d\n"),
    "benchmarks.ray_chaos": ([], r"killed an engine replica after 1\.0 s\n +6 of 6 right\n$"),
    "benchmarks.ray_data": ([], r"24 objects of 24 prompts: 0 missing, 0 stray, 0 made twice, 0 wrong"),
    "benchmarks.ray_overhead": ([], r"added per image +p50 .* of 1 \(target(.*\n)+ratio \d+\.\d\d \(target"),
    "benchmarks.ray_scaling": ([], r"1 -> 2 replicas +\d+\.\d s .*\n2 -> 1 replicas +\d+\.\d s .*\n\d+ answered\n"),
    "benchmarks.real_size": (["--folder", "checkpoint"], r"weights 0\.\d\d GiB(.*\n)*peak memory \[GiB\] +\d\.\d\d"),
    "benchmarks.serving": (["URL"], r"images/s +\d+\.\d\d \((\d+) of \1 requests answered"),
    "benchmarks.simulate": (["--times", "3"], r"\n +2 +\d+ +\d+\.\d% +\d+\.\d +\d+\.\d%"),
    "benchmarks.soak": ([], r"of \d+; p99 under 20 ms: \w+\nmemory +\d+ MiB resident"),
    "benchmarks.solvers": ([], r"Flow-DPM-Solver 1 +\d+\.\d(.*\n)+Euler 2 +\d+\.\d"),
    "recipes.demo.__main__": ([], r"held-out PSNR \d+\.\d\d dB over 2 scenes; wrote demo-tiny/checkpoint"),
    "recipes.demo.contact_sheet": (["sheet.png"], r"wrote sheet\.png: \d+x\d+ px, 1 images"),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve() as server:
        yield server.url


@pytest.mark.parametrize("name", COMMANDS)
def test_command_tiny_prints_figures(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if name.startswith("benchmarks.ray_"):  # a cluster each: about a minute
        pytest.importorskip("ray", reason="needs the extra ray")
    flags, pattern = COMMANDS[name]
    if "URL" in flags:
        flags = [request.getfixturevalue("url")]
    for module in (dc_ae_blocks, sana_blocks):  # the recipe puts its training ops into them: they are restored
        for op in {"rms_norm", "linear_attention", "cross_attention"} & vars(module).keys():
            monkeypatch.setattr(module, op, getattr(module, op))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that some of them start
    monkeypatch.chdir(tmp_path)
    assert not importlib.import_module(name).main([*flags, "--tiny"])
    assert re.search(pattern, capsys.readouterr().out)


def test_command_table_is_complete() -> None:
    files = [file for folder in ("benchmarks", "recipes") for file in (ROOT / folder).rglob("*.py")]
    commands = [file for file in files if re.search(r"^def main\(", file.read_text(), re.MULTILINE)]
    assert {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in commands} == set(COMMANDS)
