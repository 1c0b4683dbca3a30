#!/usr/bin/env bash
# Subject: torch 2.13.0 torch.onnx.export of scaled_dot_product_attention, onnxscript 0.7.2, onnxruntime 1.32.0.
#
# Guess:   a prompt mask of shape [batch, 1, 1, text tokens], which torch broadcasts over heads and queries and which
#          cross-attention code everywhere uses, exports to every opset alike. A newer opset is only better supported.
# Actual:  up to opset 22 the mask is added by a broadcasting Add and the graph runs. From opset 23 on the exporter
#          hands the same mask to ONNX's Attention node. The export succeeds, onnx's full check passes, ONNX Runtime
#          loads the model, and the first run fails: that node wants one mask row per query.
#          Expanding the mask to [batch, 1, queries, text tokens] before the call makes the graph run.
# Seen:    opset 22: runs; opset 23: "inconsistent q_sequence_length (between attn_mask and Q)"; 23 expanded: runs
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0

cat >"$work/check.py" <<'EOF'
import logging
import sys

import onnx
import onnxruntime
import torch
from torch.nn.functional import scaled_dot_product_attention

logging.disable(logging.WARNING)
onnxruntime.set_default_logger_severity(4)


class CrossAttention(torch.nn.Module):
    def __init__(self, expand):
        super().__init__()
        self.expand = expand

    def forward(self, query, key, mask):
        if self.expand:
            mask = mask.expand(-1, -1, query.shape[2], -1)
        return scaled_dot_product_attention(query, key, key, attn_mask=mask)


torch.manual_seed(0)
mask = torch.tensor([True, True, True, False, False, False]).view(1, 1, 1, 6)
inputs = (torch.randn(1, 2, 4, 8), torch.randn(1, 2, 6, 8), mask)

outcomes = {}
for opset, expand in ((22, False), (23, False), (23, True)):
    model = CrossAttention(expand)
    program = torch.onnx.export(model, inputs, dynamo=True, opset_version=opset, verbose=False)
    onnx.checker.check_model(program.model_proto, full_check=True)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    feeds = {node.name: tensor.numpy() for node, tensor in zip(session.get_inputs(), inputs, strict=True)}
    try:
        result = torch.from_numpy(session.run(None, feeds)[0])
        assert torch.allclose(result, model(*inputs), atol=1e-5)
        outcomes[opset, expand] = "runs"
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        outcomes[opset, expand] = "fails"
        print("  ", str(error)[-65:].strip())
    print(f"opset {opset}, mask expanded: {expand}: {outcomes[opset, expand]}")

expected = {(22, False): "runs", (23, False): "fails", (23, True): "runs"}
sys.exit(0 if outcomes == expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" -W ignore "$work/check.py"
