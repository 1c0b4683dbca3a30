"""diffusers' networks compiled by OpenVINO for the CPU, in its default precision, as the baseline of a benchmark.

The networks are those that optimum-intel exports. Optimum-intel itself needs older versions of transformers and
huggingface_hub than this project, so it cannot be installed beside it.
"""

import importlib.util
from typing import Any

import torch
from torch import nn

INSTALLED = importlib.util.find_spec("openvino") is not None


class Positional(nn.Module):
    """A network with positional arguments and the plain tensor of its result, as tracing needs it."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.network(**dict(zip(self.names, values, strict=True)), return_dict=False)[0]


class Compiled:
    """A network compiled for the CPU on the shapes of its example arguments, called like the network."""

    def __init__(self, network: nn.Module, **example: torch.Tensor) -> None:
        import openvino

        traced = Positional(network, tuple(example)).eval()
        with torch.no_grad():
            model = openvino.convert_model(traced, example_input=tuple(example.values()))
        model.reshape({index: list(value.shape) for index, value in enumerate(example.values())})
        self.model: Any = openvino.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        self.names = tuple(example)

    def __call__(self, *values: torch.Tensor, **named: Any) -> tuple[torch.Tensor]:
        given = dict(zip(self.names, values, strict=False)) | named
        outputs = self.model([given[name].numpy() for name in self.names])
        return (torch.from_numpy(outputs[0]),)
