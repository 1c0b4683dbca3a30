"""The README's contact sheet of generated images.

python -m recipes.demo.contact_sheet docs/demo.png
"""

import argparse
import asyncio
import contextlib
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine import EngineClient, EngineConfig, Finished
from server.request_params import resolve_params

COLUMNS, SIDE, LABEL, GAP = 6, 192, 44, 10
PROMPTS = (
    "a red circle to the left of a blue square",
    "a yellow star above a purple heart",
    "four green triangles",
    "a large orange ring on a navy background",
    "a red circle on a white background",
    "three blue circles on a cream background",
    "a white star on a teal background",
    "a brown square below a green ring",
    "a gray cat in the snow",
    "two purple hearts on a light green background",
    "a gray circle with an orange star to its right",
    "a yellow moon in the night sky",
)


async def generate(prompts: Sequence[str], steps: int | None) -> list[bytes]:
    """PNG files of the demo model, one per prompt and one at a time; image k has seed k."""
    engine = EngineClient(EngineConfig())
    model = await engine.start()
    images = []
    try:
        for seed, prompt in enumerate(prompts):
            params = resolve_params(model, prompt, num_inference_steps=steps, seed=seed)
            async with contextlib.aclosing(engine.generate(params)) as events:
                images += [event.image async for event in events if isinstance(event, Finished)]
    finally:
        await engine.stop()
    return images


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo.contact_sheet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--tiny", action="store_true", help="one image of one step: shows that the command works")
    args = parser.parse_args(argv)
    prompts, steps = (PROMPTS[:1], 1) if args.tiny else (PROMPTS, None)
    rows = -(-len(prompts) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LABEL + GAP) + GAP), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (prompt, file) in enumerate(zip(prompts, asyncio.run(generate(prompts, steps)), strict=True)):
        x, y = GAP + index % COLUMNS * (SIDE + GAP), GAP + index // COLUMNS * (SIDE + LABEL + GAP)
        with Image.open(io.BytesIO(file)) as image:
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        canvas.multiline_text((x, y + SIDE + 4), textwrap.fill(prompt, 30), fill="#333333", font=font, spacing=2)
    sheet.save(args.out, optimize=True)
    print(f"wrote {args.out}: {sheet.width}x{sheet.height} px, {len(prompts)} images")


if __name__ == "__main__":
    main()
