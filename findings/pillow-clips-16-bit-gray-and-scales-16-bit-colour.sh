#!/usr/bin/env bash
# Subject: Pillow 13.0.0, 16-bit PNG files and Image.convert("RGB").
#
# Guess:   Image.open(path).convert("RGB") maps a PNG's full range to 0..255, whatever its bit depth and colour type.
# Actual:  16-bit colour and 16-bit gray with alpha are scaled (32768 -> 128). 16-bit gray, the usual format of depth
#          maps and masks, opens in mode I;16 and is clipped: every sample above 255 turns white. A mask made by a
#          scanner or a depth estimator becomes solid white on upload, and an image model is asked to repaint it all.
# Seen:    gray 0, 256, 32768, 65535 -> 0, 255, 255, 255; the same values in colour -> 0, 1, 128, 255
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0

cat >"$work/check.py" <<'EOF'
import io
import struct
import sys
import zlib

from PIL import Image

SAMPLES = (0, 256, 32768, 65535)
GRAY, COLOUR, GRAY_ALPHA = 0, 2, 4  # PNG colour types


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour_type, row):
    header = struct.pack(">IIBBBBB", len(SAMPLES), 1, 16, colour_type, 0, 0, 0)
    row = b"\0" + struct.pack(f">{len(row)}H", *row)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


rows = {
    "gray": (GRAY, SAMPLES),
    "colour": (COLOUR, [sample for sample in SAMPLES for _ in range(3)]),
    "gray and alpha": (GRAY_ALPHA, [value for sample in SAMPLES for value in (sample, 65535)]),
}
reds = {}
for name, (colour_type, row) in rows.items():
    image = Image.open(io.BytesIO(png(colour_type, row)))
    reds[name] = list(image.convert("RGB").tobytes()[::3])
    print(f"16-bit {name}: mode {image.mode}, {SAMPLES} -> {reds[name]}")

expected = {"gray": [0, 255, 255, 255], "colour": [0, 1, 128, 255], "gray and alpha": [0, 1, 128, 255]}
sys.exit(0 if reds == expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
