#!/usr/bin/env bash
# Subject: torch 2.13.0 torch.onnx.export of scaled_dot_product_attention, onnxscript 0.7.2, onnxruntime 1.32.0.
#
# Guess:   a query whose boolean mask is false everywhere (a packed batch's padding, an empty prompt) gives the same
#          result in the graph as in torch. torch answers zeros for such a row.
# Actual:  it depends on the opset. Up to opset 22 the mask becomes a very negative finite number, the softmax over
#          equal scores is uniform, and the row is the plain average of all values: ordinary-looking numbers that
#          come from keys the mask forbids. The graph even holds an IsNaN guard, which never fires. From opset 23 on,
#          where the exporter writes ONNX's own Attention node, the row is zeros as in torch.
# Seen:    torch 0.0; opset 18 and 22: 2.5, the average of values 1..4; opset 23: 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0

cat >"$work/check.py" <<'EOF'
import logging
import sys

import onnxruntime
import torch
from torch.nn.functional import scaled_dot_product_attention

logging.disable(logging.WARNING)
MASK = torch.tensor([[True, True, False, False], [False] * 4])  # the second query may see no key


class MaskedAttention(torch.nn.Module):
    def forward(self, query, key, value):
        return scaled_dot_product_attention(query, key, value, attn_mask=MASK)


torch.manual_seed(0)
query, key = torch.randn(1, 1, 2, 8), torch.randn(1, 1, 4, 8)
value = torch.arange(1.0, 5.0).view(1, 1, 4, 1).expand(1, 1, 4, 8).contiguous()
inputs = (query, key, value)
reference = MaskedAttention()(*inputs)
print("torch: masked row", reference[0, 0, 1, 0].item())

rows = {}
for opset in (18, 22, 23):
    program = torch.onnx.export(MaskedAttention(), inputs, dynamo=True, opset_version=opset, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    feeds = {node.name: tensor.numpy() for node, tensor in zip(session.get_inputs(), inputs, strict=True)}
    result = torch.from_numpy(session.run(None, feeds)[0])
    assert torch.allclose(result[0, 0, 0], reference[0, 0, 0], atol=1e-5), "the unmasked row must agree"
    rows[opset] = round(result[0, 0, 1, 0].item(), 3)
    print(f"opset {opset}: masked row {rows[opset]}", [node.op_type for node in program.model_proto.graph.node])

expected = reference[0, 0, 1, 0].item() == 0.0 and rows == {18: 2.5, 22: 2.5, 23: 0.0}
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" -W ignore "$work/check.py"
