#!/usr/bin/env bash
# Subject: safetensors 0.8.0, safetensors.torch.save / load / load_file; torch 2.13.0.
#
# Guess:   load(bytes) reads what save() wrote a line before; load_file(path) is the same function with a path.
# Actual:  the two readers have separate tables of dtypes. save() writes float8_e8m0fnu (the block scales of MXFP8 and
#          MXFP4 checkpoints) and float4_e2m1fn_x2 as F8_E8M0 and F4; load_file() reads both; load() raises a bare
#          KeyError. A loader that takes bytes from an object store or a request works until such a checkpoint comes.
#          For F4 the shape in the header is not the tensor's: 8 bytes of two packed values each are stated as 16.
# Seen:    F8_E8M0 and F4: load_file ok, load KeyError; F8_E4M3: both ok; header shape of the F4 tensor [16]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 safetensors==0.8.0

cat >"$work/check.py" <<'EOF'
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save

path = Path(sys.argv[1]) / "scales.safetensors"
seen = {}
for dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2):
    tensor = torch.arange(120, 128, dtype=torch.uint8).view(dtype)
    data = save({"scale": tensor})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["scale"]
    path.write_bytes(data)
    from_file = load_file(path)["scale"]
    assert torch.equal(from_file.view(torch.uint8), tensor.view(torch.uint8))
    try:
        load(data)
        from_bytes = "ok"
    except KeyError as error:
        from_bytes = f"KeyError {error}"
    seen[header["dtype"]] = from_bytes, tuple(header["shape"]), tuple(from_file.shape)
    print(f"{dtype}: header {header['dtype']} {header['shape']}, load_file {list(from_file.shape)}, load {from_bytes}")

expected = {
    "F8_E4M3": ("ok", (8,), (8,)),
    "F8_E8M0": ("KeyError 'F8_E8M0'", (8,), (8,)),
    "F4": ("KeyError 'F4'", (16,), (8,)),
}
sys.exit(0 if seen == expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py" "$work"
