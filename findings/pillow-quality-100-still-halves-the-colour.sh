#!/usr/bin/env bash
# Subject: Pillow 13.0.0, save(quality=100) for JPEG, WebP and AVIF.
#
# Guess:   quality=100 is the best the format can do, so an image server's output_compression=100 is near to lossless.
# Actual:  quality leaves chroma subsampling alone. All three formats keep one colour sample for four pixels at 100:
#          thin red lines on blue come back off by more than 180 of 255. JPEG and AVIF need a second argument with
#          different spellings (subsampling=0 and subsampling="4:4:4"); lossy WebP cannot do it at all, only
#          lossless=True helps.
# Seen:    largest error at quality 100: JPEG, WebP and AVIF over 180; JPEG 4:4:4, AVIF 4:4:4 and WebP lossless under 5
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

pixels = numpy.zeros((64, 64, 3), numpy.uint8)
pixels[:, :, 2] = 255  # blue
pixels[:, ::4] = (255, 0, 0)  # red lines, one pixel wide
original = Image.fromarray(pixels)


def largest_error(file_format, **options):
    file = io.BytesIO()
    original.save(file, file_format, quality=100, **options)
    decoded = numpy.asarray(Image.open(file).convert("RGB")).astype(int)
    return int(abs(decoded - pixels).max())


errors = {
    "JPEG": largest_error("JPEG"),
    "WEBP": largest_error("WEBP"),
    "AVIF": largest_error("AVIF"),
    "JPEG subsampling=0": largest_error("JPEG", subsampling=0),
    "AVIF subsampling='4:4:4'": largest_error("AVIF", subsampling="4:4:4"),
    "WEBP lossless": largest_error("WEBP", lossless=True),
}
for name, error in errors.items():
    print(f"quality=100 {name}: largest error {error} of 255")

values = list(errors.values())
sys.exit(0 if min(values[:3]) > 180 and max(values[3:]) < 5 else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
