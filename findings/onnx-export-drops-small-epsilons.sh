#!/usr/bin/env bash
# Subject: torch 2.13.0 torch.onnx.export, onnxscript 0.7.2, onnxruntime 1.32.0.
#
# Guess:   the exported graph computes x / (y + 1e-15) as the model does, so the term that guards a division
#          against zero survives. SANA's linear attention has exactly this term.
# Actual:  the exporter's optimizer, which is on by default, takes an addend of up to 1e-8 for zero and removes the
#          node. Division by zero then gives NaN. 1e-7 is kept. 1 / sqrt(x + 1e-12) and log(x + 1e-9) lose their
#          guards in the same way. With optimize=False the term stays.
# Seen:    1e-15 Div [nan]; 1e-08 Div [nan]; 1e-07 Add,Div [0.0]; unoptimized 1e-15 Constant,Add,Div [0.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0

cat >"$work/check.py" <<'EOF'
import logging
import math
import sys

import onnxruntime
import torch

logging.disable(logging.WARNING)


class GuardedDivision(torch.nn.Module):
    def __init__(self, epsilon):
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x, y):
        return x / (y + self.epsilon)


def exported(epsilon, optimize):
    zero = torch.zeros(1)
    model = GuardedDivision(epsilon)
    assert model(zero, zero).item() == 0.0
    program = torch.onnx.export(model, (zero, zero), dynamo=True, optimize=optimize, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    feeds = {value.name: zero.numpy() for value in session.get_inputs()}
    nodes = [node.op_type for node in program.model_proto.graph.node]
    return nodes, session.run(None, feeds)[0].tolist()


dropped = {}
for epsilon, optimize in ((1e-15, True), (1e-8, True), (1e-7, True), (1e-15, False)):
    nodes, value = exported(epsilon, optimize)
    dropped[epsilon, optimize] = "Add" not in nodes and math.isnan(value[0])
    print(f"epsilon={epsilon:g} optimize={optimize}: torch 0.0, graph {nodes} gives {value}")

expected = {(1e-15, True): True, (1e-8, True): True, (1e-7, True): False, (1e-15, False): False}
sys.exit(0 if dropped == expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" -W ignore "$work/check.py"
