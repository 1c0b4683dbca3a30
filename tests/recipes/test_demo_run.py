"""A training run ends with its budget, resumes where it stopped, and plots its losses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.demo import run as run_module
from recipes.demo.run import Run, average_into

CPU = torch.device("cpu")


def one_weight(value: float) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model


def test_run_ends_with_its_budget_and_saves(tmp_path: Path) -> None:
    model, saves = one_weight(0.0), []
    run = Run(tmp_path / "net.pt", 0.002, {"model": model}, CPU, lambda: saves.append(run.step))
    shares = []
    for share in run.steps():
        shares.append(share)
        torch.nn.init.constant_(model.weight, float(len(shares)))
        run.record(loss=1.0)
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] < 1 <= run.spent / (0.002 * 60)
    assert saves == [len(shares)]

    again = one_weight(-1.0)
    resumed = Run(tmp_path / "net.pt", 0.002, {"model": again}, CPU)
    assert list(resumed.steps()) == []  # the budget is spent
    assert again.weight.item() == resumed.step == len(shares)


def test_run_with_more_budget_resumes(tmp_path: Path) -> None:
    for _ in Run(tmp_path / "net.pt", 0.001, {}, CPU).steps():
        pass
    longer = Run(tmp_path / "net.pt", 0.002, {}, CPU)
    before = longer.step
    first = next(longer.steps())
    assert before > 0
    assert first >= 0.5


def test_run_records_means_and_plots_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "LOG_STEPS", 4)
    run = Run(tmp_path / "net.pt", 1.0, {}, CPU)
    for i, _ in zip(range(9), run.steps(), strict=False):
        run.record(loss=float(i), other=2.0)
    assert run.losses == {"loss": [1.5, 5.5], "other": [2.0, 2.0]}
    assert "net step 8" in capsys.readouterr().out
    run.save()
    with Image.open(tmp_path / "net-losses.png") as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 3  # axes, text and two line colors


def test_average_follows_faster_at_the_start() -> None:
    average, model = one_weight(0.0), one_weight(1.0)
    average_into(average, model, step=0, decay=0.99)
    early = average.weight.item()
    assert early == pytest.approx(1 - 1 / 21)
    average, model = one_weight(0.0), one_weight(1.0)
    average_into(average, model, step=10_000, decay=0.99)
    assert average.weight.item() == pytest.approx(0.01, rel=0.3)
