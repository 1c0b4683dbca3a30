"""Peak host memory of loading a checkpoint, in a separate process, and the memory model."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.random_checkpoint import write_random_checkpoint
from engine.checkpoints.loader import open_checkpoint
from engine.models.gemma2 import Gemma2Config
from engine.worker.memory import memory_model

from ...checkpoints import DC_AE
from ...text_models import gemma_tokenizer

ROOT = Path(__file__).parents[3]
WIDTH_896 = dict(
    num_attention_heads=28,
    num_cross_attention_heads=8,
    cross_attention_head_dim=112,
    cross_attention_dim=896,
    num_layers=12,
)
CHILD = """
import os, sys, torch
from pathlib import Path
from engine.checkpoints.loader import load_models, open_checkpoint
from engine.checkpoints.tokenizer import load_tokenizer
def peak(): return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
torch.zeros(8).to(torch.bfloat16).sum()  # first use of torch and tokenizers allocates too
load_tokenizer(Path(sys.argv[1]) / "tokenizer")
for name in sys.argv[2:]:
    if os.fork():  # a separate process per dtype, without importing torch again
        assert os.wait()[1] == 0
        continue
    dtype, before = getattr(torch, name), peak()
    models = load_models(open_checkpoint(sys.argv[1], dtype), torch.device("cpu"), dtype)
    parts = [models.transformer, models.decoder, models.text_encoder]
    weights = [p for part in parts for p in part.parameters() if not p.is_mkldnn]  # those are in memory already
    for weight in weights:
        weight.view(-1)[::512].sum()  # touches every page, because pages count once used
    print(name, peak() - before, flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Folder of a checkpoint of about 420 MB in bf16, and the bytes of its weights."""
    folder = tmp_path_factory.mktemp("memory") / "large"
    tokenizer = gemma_tokenizer()
    text = Gemma2Config(vocab_size=20_000, hidden_size=1024, intermediate_size=3072, num_hidden_layers=2)
    needed = write_random_checkpoint(folder, WIDTH_896 | dict(caption_channels=1024), DC_AE, text, tokenizer)
    return folder, needed


@pytest.fixture(scope="module")
def grown(large_checkpoint: tuple[Path, int]) -> dict[str, int]:
    """Peak growth of the process in bytes, by dtype."""
    command = [sys.executable, "-c", CHILD, str(large_checkpoint[0]), "bfloat16", "float32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {name: int(grown) for name, grown in map(str.split, child.stdout.splitlines())}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark from /proc")
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 1), ("float32", 2)])
def test_loading_peak_close_to_weights(
    dtype: str, size: int, grown: dict[str, int], large_checkpoint: tuple[Path, int]
) -> None:
    """Weights are copied or converted one tensor at a time, and mapped pages are released in between."""
    held = size * large_checkpoint[1]
    assert held > 300e6
    assert 0.8 * held <= grown[dtype] <= 1.15 * held


def test_memory_model_counts_position_embedding(checkpoint: Callable[[str], Path]) -> None:
    """fp32, one vector per token, for checkpoints that have one."""
    plain, positioned = (open_checkpoint(str(checkpoint(name)), None) for name in ("sana-1.0", "sana-2k"))
    width = plain.transformer.width
    assert width == positioned.transformer.width
    dtype = torch.bfloat16
    plain_bytes, positioned_bytes = (
        memory_model(opened, torch.device("cpu"), dtype).token for opened in (plain, positioned)
    )
    assert positioned_bytes - plain_bytes == 4 * width
