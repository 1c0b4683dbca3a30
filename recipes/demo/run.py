"""A training run with a time budget that resumes where it was interrupted and plots its losses."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from .images import save_curves

LOG_STEPS = 50
SAVE_SECONDS = 180.0


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Run:
    """Iterate `steps`, and `record` the losses of each.

    Args:
        path: checkpoint file work/<name>.pt; <name>-losses.png is written beside it.
        minutes: training time in total, over all interrupted runs; saving and sampling do not count.
        parts: networks, averages and optimizers to keep.
        on_save: called after each save.
    """

    def __init__(
        self,
        path: Path,
        minutes: float,
        parts: dict[str, Stateful],
        device: torch.device,
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.seconds, self.parts, self.on_save = path, minutes * 60, parts, on_save
        self.step, self.spent = 0, 0.0
        self.losses: dict[str, list[float]] = {}
        self._sums: dict[str, float] = {}
        if path.exists():
            state = torch.load(path, map_location=device, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.spent, self.losses = state["step"], state["spent"], state["losses"]

    def steps(self) -> Iterator[float]:
        """Yields the share of the budget that is spent, 0..1, once per step."""
        saved = self.spent
        while self.spent < self.seconds:
            started = time.monotonic()
            yield self.spent / self.seconds
            self.step += 1
            self.spent += time.monotonic() - started
            if self.spent - saved > SAVE_SECONDS or self.spent >= self.seconds:
                saved = self.spent
                self.save()

    def record(self, **losses: float) -> None:
        """Adds the losses of this step; prints and keeps their means every LOG_STEPS steps."""
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + loss / LOG_STEPS
        if self.step % LOG_STEPS == LOG_STEPS - 1:
            for name, mean in self._sums.items():
                self.losses.setdefault(name, []).append(mean)
            means = " ".join(f"{name} {mean:.4f}" for name, mean in self._sums.items())
            print(f"{self.path.stem} step {self.step + 1} minutes {self.spent / 60:.1f} {means}", flush=True)
            self._sums.clear()

    def save(self) -> None:
        """Writes a temporary file, then renames it: an interruption leaves the previous checkpoint."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        part_file = self.path.with_suffix(".tmp")
        torch.save(state | {"step": self.step, "spent": self.spent, "losses": self.losses}, part_file)
        part_file.replace(self.path)
        save_curves(self.path.with_name(f"{self.path.stem}-losses.png"), self.losses)
        self.on_save()


@torch.no_grad()
def average_into(average: torch.nn.Module, model: torch.nn.Module, step: int, decay: float) -> None:
    """Updates the exponential moving average of the weights, which is shorter at the start."""
    weight = 1 - min(decay, (step + 1) / (step + 21))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)
