"""The README's picture: `python -m recipes.demo.contact_sheet docs/demo.png`, every cell by `sana generate`."""

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLUMNS, SIDE, LABEL, GAP = 6, 192, 44, 10
PROMPTS = (
    "a red circle to the left of a blue square",
    "a yellow star above a purple heart",
    "four green triangles",
    "a large orange ring on a navy background",
    "a pink heart and a black star",
    "three blue circles on a cream background",
    "a white star on a teal background",
    "a brown square below a green ring",
    "a small red triangle",
    "two purple hearts on a light green background",
    "a gray circle with an orange star to its right",
    "a large yellow circle on a gradient background from navy to teal",
)


def main() -> None:
    out = Path(sys.argv[1])
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LABEL + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    with tempfile.TemporaryDirectory() as folder:
        for index, prompt in enumerate(PROMPTS):
            file = Path(folder) / f"{index}.png"
            command = [sys.executable, "-m", "server.cli", "generate", prompt, "--seed", str(index), "--out", str(file)]
            subprocess.run(command, check=True, capture_output=True)
            x, y = GAP + index % COLUMNS * (SIDE + GAP), GAP + index // COLUMNS * (SIDE + LABEL + GAP)
            with Image.open(file) as picture:
                sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
            pen.multiline_text((x, y + SIDE + 4), textwrap.fill(prompt, 30), fill="#333333", font=font, spacing=2)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
