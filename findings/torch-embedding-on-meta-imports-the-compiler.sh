#!/usr/bin/env bash
# Subject: torch 2.13.0, modules and tensors created on the meta device.
#
# Guess:   a network built on the meta device costs nothing: no memory, no initialization, no imports.
# Actual:  nn.Embedding starts with normal noise, and normal_() on a meta tensor is a decomposition in Python, whose
#          first call imports torch._dynamo and sympy: over 800 modules and 1.8 s of CPU time, most of the time that a
#          small model takes to load. randn() imports half of them. nn.Linear, whose noise is uniform, imports none.
# Seen:    nn.Linear 0 modules; rand 0; randn 487, sympy among them; nn.Embedding 823, torch._dynamo among them
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat >"$work/check.py" <<'EOF_PY'
import subprocess
import sys

CASES = ("nn.Linear(4, 4, device='meta')", "rand(4, device='meta')", "randn(4, device='meta')",
         "nn.Embedding(4, 4, device='meta')")
CHILD = """
import sys, torch
before = set(sys.modules)
torch.{case}
new = set(sys.modules) - before
print(len(new), 'sympy' in new, 'torch._dynamo' in new)
"""

seen = {}
for case in CASES:
    answer = subprocess.check_output([sys.executable, "-c", CHILD.format(case=case)], text=True).split()
    seen[case] = (int(answer[0]), answer[1] == "True", answer[2] == "True")
    print(f"torch.{case}: {seen[case][0]} more modules, sympy {seen[case][1]}, torch._dynamo {seen[case][2]}")

linear, rand, randn, embedding = seen.values()
expected = linear[0] == rand[0] == 0 and randn[1] and not randn[2] and embedding[1] and embedding[2]
sys.exit(0 if expected and embedding[0] > randn[0] > 100 else "the behaviour has changed")
EOF_PY
"$work/venv/bin/python" "$work/check.py"
