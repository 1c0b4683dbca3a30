#!/usr/bin/env bash
# Subject: sharp 0.35.5 (npm), the options of png().
#
# Guess:   PNG is lossless, so png({ quality: 100 }) is the best there is and png({ effort: 7 }) only takes longer to
#          find a smaller file, as effort does for WebP and AVIF.
# Actual:  either option switches to an indexed palette. A generated image of 65,536 colours comes out with 256 and is
#          off by up to 29 of 255, at quality 100 too. compressionLevel and progressive stay lossless.
#          A web front end that re-encodes a server's PNG with "maximum quality" degrades it on the way.
# Seen:    {}: 65536 colours, error 0; { quality: 100 }, { effort: 7 }: 256 colours; { compressionLevel: 9 }: 65536
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund sharp@0.35.5

cat >check.mjs <<'EOF'
import sharp from 'sharp';

const side = 256;
const pixels = Buffer.alloc(side * side * 3);
for (let y = 0; y < side; y++) {
  for (let x = 0; x < side; x++) {
    pixels.set([x, y, (x + y) >> 1], (y * side + x) * 3); // every pixel has a colour of its own
  }
}

async function measure(options) {
  const file = await sharp(pixels, { raw: { width: side, height: side, channels: 3 } }).png(options).toBuffer();
  const decoded = await sharp(file).removeAlpha().toColourspace('srgb').raw().toBuffer();
  const colours = new Set();
  let error = 0;
  for (let i = 0; i < decoded.length; i++) {
    error = Math.max(error, Math.abs(decoded[i] - pixels[i]));
    if (i % 3 === 0) colours.add(decoded.readUIntBE(i, 3));
  }
  console.log(`png(${JSON.stringify(options)}): ${colours.size} colours, largest error ${error}, ${file.length} bytes`);
  return colours.size;
}

const lossless = [await measure({}), await measure({ compressionLevel: 9 }), await measure({ progressive: true })];
const reduced = [await measure({ quality: 100 }), await measure({ effort: 7 })];
const expected = lossless.every((n) => n === 65536) && reduced.every((n) => n <= 256);
if (!expected) console.error('the behaviour has changed');
process.exit(expected ? 0 : 1);
EOF
node check.mjs
