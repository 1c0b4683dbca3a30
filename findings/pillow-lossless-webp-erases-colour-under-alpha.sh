#!/usr/bin/env bash
# Subject: Pillow 13.0.0, save(format="WEBP", lossless=True) of an RGBA image.
#
# Guess:   lossless means that every sample comes back, as with PNG.
# Actual:  wherever alpha is 0 the colour is replaced, unless exact=True is given as well. OpenAI's image edits mark
#          the region to repaint with alpha 0 in the uploaded image itself, and the colours below it are the source
#          for a soft edit: a client that stores its canvas as lossless WebP has thrown them away. PNG keeps them.
# Seen:    PNG: kept; WebP lossless: visible half kept, colour below alpha 0 lost; WebP lossless, exact=True: kept
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6

cat >"$work/check.py" <<'EOF'
import io
import sys

import numpy
from PIL import Image

pixels = numpy.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=numpy.uint8)
pixels[:, :32, 3] = 255  # visible half
pixels[:, 32:, 3] = 0  # half to repaint
original = Image.fromarray(pixels)

kept = {}
for name, file_format, options in (
    ("PNG", "PNG", {}),
    ("WebP lossless", "WEBP", {"lossless": True}),
    ("WebP lossless exact", "WEBP", {"lossless": True, "exact": True}),
):
    file = io.BytesIO()
    original.save(file, file_format, **options)
    decoded = numpy.asarray(Image.open(file))
    kept[name] = numpy.array_equal(decoded[:, :32], pixels[:, :32]), numpy.array_equal(decoded[:, 32:], pixels[:, 32:])
    print(f"{name}: visible half kept: {kept[name][0]}, colour below alpha 0 kept: {kept[name][1]}")

expected = {"PNG": (True, True), "WebP lossless": (True, False), "WebP lossless exact": (True, True)}
sys.exit(0 if kept == expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
