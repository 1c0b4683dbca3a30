"""Gemma's tokenizer file, read without transformers, against transformers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from engine import CheckpointError
from engine.checkpoints.tokenizer import load_tokenizer
from engine.worker.prompts import COMPLEX_HUMAN_INSTRUCTION

TEXTS = ["", "a cat", "  a  \t cat\n", "Ein Kätzchen 猫 🐱 e\u0301", "<eos> cat <bos><pad>", COMPLEX_HUMAN_INSTRUCTION]


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(checkpoint("sana-1.5") / "tokenizer", tmp_path / "tokenizer"))


def rewrite(folder: Path, **settings: object) -> None:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_ids_equal_transformers(folder: Path) -> None:
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"]


def test_state_of_earlier_use_is_ignored(folder: Path) -> None:
    """A tokenizer that was saved after a call with padding has it in its file; one without a template adds no <bos>."""
    expected = [load_tokenizer(folder).encode(text).ids for text in TEXTS]
    truncation = dict(direction="Right", max_length=5, strategy="LongestFirst", stride=0)
    padding = dict(strategy=dict(Fixed=9), direction="Left", pad_to_multiple_of=None)
    padding |= dict(pad_id=0, pad_type_id=0, pad_token="<pad>")
    rewrite(folder, truncation=truncation, padding=padding, post_processor=None)
    assert [load_tokenizer(folder).encode(text).ids for text in TEXTS] == expected
    assert expected[0] == [2]


def test_file_broken_or_absent_is_named(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    without_bos = content | {"added_tokens": []}
    without_bos["model"]["vocab"] = {
        ("<start>" if token == "<bos>" else token): i for token, i in content["model"]["vocab"].items()
    }
    for text, message in (
        ("{", r"tokenizer\.json"),
        ("{}", r"tokenizer\.json is not a usable tokenizer: "),
        (
            json.dumps(without_bos | {"post_processor": None}),
            r"tokenizer\.json is not Gemma's .*: it has no token <bos>",
        ),
    ):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_tokenizer(folder)
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer: tokenizer\.json is missing"):
        load_tokenizer(folder)
