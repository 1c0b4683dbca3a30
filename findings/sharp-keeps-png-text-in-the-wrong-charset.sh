#!/usr/bin/env bash
# Subject: sharp 0.35.5 (npm) keepMetadata() on a PNG with text, read back with Pillow 13.0.0.
#
# Guess:   keepMetadata() carries PNG text chunks over as they are, or leaves out what it cannot write.
# Actual:  an iTXt chunk (UTF-8) comes out as a zTXt chunk, whose text is Latin-1 by the PNG standard, with the UTF-8
#          bytes put into it unchanged. sharp reads its own file well, so a test in JavaScript passes. Readers that
#          follow the standard, such as Pillow and the gallery tools built on it, show mojibake where a prompt has
#          anything but ASCII. Plain tEXt chunks are compressed to zTXt as well.
# Seen:    iTXt -> zTXt; sharp reads "café 灯台"; Pillow reads "cafÃ© ç..."
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
cd "$work"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund sharp@0.35.5

cat >write.py <<'EOF'
from PIL import Image, PngImagePlugin

info = PngImagePlugin.PngInfo()
info.add_itxt("parameters", "café 灯台")
Image.new("RGB", (8, 8)).save("original.png", pnginfo=info)
EOF

cat >keep.mjs <<'EOF'
import sharp from 'sharp';

await sharp('original.png').keepMetadata().png().toFile('kept.png');
const { comments } = await sharp('kept.png').metadata();
console.log('sharp reads', JSON.stringify(comments[0].text));
process.exit(comments[0].text === 'café 灯台' ? 0 : 1);
EOF

cat >read.py <<'EOF'
import sys
from pathlib import Path

from PIL import Image

prompt = "café 灯台"
kept = Image.open("kept.png").text["parameters"]
kinds = [kind for kind in ("tEXt", "zTXt", "iTXt") if kind.encode() in Path("kept.png").read_bytes()]
print("chunks:", kinds)
print("Pillow reads", ascii(kept), "of the original", ascii(str(Image.open("original.png").text["parameters"])))
mojibake = kept == prompt.encode().decode("latin-1")
sys.exit(0 if mojibake and kinds == ["zTXt"] else "the behaviour has changed")
EOF
venv/bin/python write.py
node keep.mjs
venv/bin/python read.py
