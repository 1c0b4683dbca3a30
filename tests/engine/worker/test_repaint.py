"""Images that start from another one: against diffusers, with a mask, and beside images that start from noise."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SanaSprintImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.psnr import psnr
from engine import GenerationParams, InvalidParams, Preview, Progress, SourceImage
from engine.messages import Submit
from engine.worker.repaint import keep_unmasked, latent_mask, mask_depth

from ...reference import generators, quiet
from .stepping import Engine

MIN_PSNR = 55.0
SIZE = (96, 128)  # width, height


def photo(width: int = SIZE[0], height: int = SIZE[1]) -> np.ndarray:
    """A smooth image with edges, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / width, 255 * y / height, 255 * ((x // 24 + y // 24) % 2)], axis=2)
    return image.astype(np.uint8)


def edit(strength: float, steps: int = 2, mask: np.ndarray | None = None, **settings: object) -> GenerationParams:
    source = SourceImage(photo().tobytes(), None if mask is None else mask.tobytes())
    params = GenerationParams("a cat", *SIZE, steps, 4.5, seed=5, image=source, strength=strength)
    return replace(params, **settings)  # type: ignore[arg-type]


def half_mask() -> np.ndarray:
    """The right half is to be repainted, uint8 [H, W]."""
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[:, 40:] = 255
    return mask


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Callable[[str], Engine]:
    return cache(lambda name: Engine(checkpoint(name)))


@pytest.fixture(scope="module")
def sprint_reference(checkpoint: Callable[[str], Path]) -> SanaSprintImg2ImgPipeline:
    with quiet():
        pipeline = SanaSprintImg2ImgPipeline.from_pretrained(checkpoint("sana-sprint"), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.text_encoder.set_attn_implementation("eager")
    return pipeline


@pytest.mark.parametrize(("steps", "strength"), [(2, 0.2), (2, 0.5), (2, 1.0), (4, 0.3), (4, 0.6), (4, 0.9), (1, 0.7)])
def test_sprint_matches_diffusers_image_to_image(
    steps: int, strength: float, engine: Callable[[str], Engine], sprint_reference: SanaSprintImg2ImgPipeline
) -> None:
    params = edit(strength, steps, n=2)
    with quiet():
        theirs = sprint_reference(
            params.prompt,
            image=[Image.fromarray(photo())],
            strength=strength,
            width=SIZE[0],
            height=SIZE[1],
            num_inference_steps=steps,
            intermediate_timesteps=1.3 if steps == 2 else None,
            guidance_scale=4.5,
            num_images_per_prompt=2,
            generator=generators(params),
            use_resolution_binning=False,
            output_type="np",
        ).images
    (ours,) = engine("sana-sprint").generate([params])
    theirs = (theirs * 255).round().astype(np.uint8)
    assert min(psnr(a, b) for a, b in zip(ours, theirs, strict=True)) >= MIN_PSNR


@pytest.mark.parametrize("name", ["sana-1.0", "sana-sprint"])
def test_strength_zero_is_the_reconstruction(
    name: str, engine: Callable[[str], Engine], reference: Callable[[str], object]
) -> None:
    vae = reference(name).vae  # type: ignore[attr-defined]
    with torch.inference_mode():
        pixels = torch.from_numpy(photo()).permute(2, 0, 1)[None] / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent).sample[0].permute(1, 2, 0)
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()
    (ours,) = engine(name).generate([edit(0.0, steps=3)])
    assert psnr(ours[0], expected) >= MIN_PSNR
    assert not [event for event in engine(name).emitted if isinstance(event, Progress)]


@pytest.mark.parametrize("name", ["sana-1.0", "sana-sprint"])
def test_strength_one_is_text_to_image(name: str, engine: Callable[[str], Engine]) -> None:
    from_text = replace(edit(1.0, steps=3), image=None)
    repainted, generated = (engine(name).generate([params])[0] for params in (edit(1.0, steps=3), from_text))
    assert np.array_equal(repainted, generated)


def test_strength_moves_away_from_the_image() -> None:
    """On the demo, until the image is another one: beyond a strength of about 0.4 nothing is left to lose."""
    demo = Engine("demo")
    start = GenerationParams("a red circle", 128, 128, 10, 4.5, seed=1)
    (original,) = demo.generate([start])
    source = SourceImage(original[0].tobytes())
    params = [replace(start, prompt="a blue square", seed=20, n=4, image=source, strength=s) for s in (0.0, 0.1, 0.3)]
    errors = [np.square(images.astype(float) - original[0]).mean() for images in demo.generate(params)]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("name", ["sana-1.0", "sana-sprint"])
def test_mask_keeps_the_rest_byte_equal(name: str, engine: Callable[[str], Engine]) -> None:
    mask = half_mask()
    params = edit(1.0, 3, mask, partial_images=1, n=2)
    (ours,) = engine(name).generate([params])
    previews = [event for event in engine(name).emitted if isinstance(event, Preview)]
    assert len(previews) == 2
    for image in (*ours, np.asarray(Image.open(io.BytesIO(previews[0].image)))):
        assert np.array_equal(image[mask == 0], photo()[mask == 0])
        assert psnr(image[mask > 0], photo()[mask > 0]) < 40
    (free,) = engine(name).generate([replace(params, image=SourceImage(photo().tobytes()))])
    assert psnr(free[0], ours[0]) < 40  # the known region has an effect beside it, too


def test_mask_off_the_grid_keeps_the_rest(engine: Callable[[str], Engine]) -> None:
    image, mask = photo(75, 50), np.zeros((50, 75), np.uint8)
    mask[:, 60:] = 1
    source = SourceImage(image.tobytes(), mask.tobytes())
    (ours,) = engine("sana-1.0").generate([edit(0.8, 3, width=75, height=50, image=source)])
    assert np.array_equal(ours[0][mask == 0], image[mask == 0])


def test_known_region_is_held_at_every_step(engine: Callable[[str], Engine]) -> None:
    core = engine("sana-1.0").core
    core.submit(Submit("held", edit(0.75, 4, half_mask())))
    levels = []
    while core.busy:
        core.step()
        for task in core.scheduler.running:
            state = task.state
            if state is not None and state.known is not None:
                known = ~state.known.repainted[:, 0]
                data, noise = state.schedule.levels[task.step]
                expected = data * state.known.data + noise * state.known.noise
                assert torch.allclose(state.latents[known], expected[known], atol=1e-6)
                levels.append(task.step)
    assert set(levels) == {1, 2, 3, 4}
    engine("sana-1.0").run(1)


def test_edits_mixed_with_generations_equal_alone(engine: Callable[[str], Engine]) -> None:
    requests = [
        edit(0.5, 4),
        replace(edit(1.0, 3), image=None),
        edit(0.7, 5, half_mask(), n=2, seed=9),
        edit(0.0, 2),
        replace(edit(1.0, 2), image=None, guidance_scale=1.0),
    ]
    together = engine("sana-1.0").generate(requests)
    for params, images in zip(requests, together, strict=True):
        (alone,) = engine("sana-1.0").generate([params])
        assert min(psnr(a, b) for a, b in zip(images, alone, strict=True)) >= MIN_PSNR


def test_steps_and_previews_count_those_run(engine: Callable[[str], Engine]) -> None:
    params = edit(0.5, 8, partial_images=1)
    engine("sana-1.0").generate([params])
    steps = [(event.step, event.steps) for event in engine("sana-1.0").emitted if isinstance(event, Progress)]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sum(isinstance(event, Preview) for event in engine("sana-1.0").emitted) == 1


def test_checkpoint_without_encoder_refuses_images(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("sana-1.5"), folder)
    (file,) = (folder / "vae").glob("*.safetensors")
    save_file({key: tensor for key, tensor in load_file(file).items() if not key.startswith("encoder.")}, file)
    core = Engine(folder).core
    assert not core.model.takes_images
    with pytest.raises(InvalidParams, match="no encoder") as refused:
        core.submit(Submit("1", edit(0.5)))
    assert refused.value.param == "image"


def test_encoder_is_loaded_with_the_first_image(checkpoint: Callable[[str], Path]) -> None:
    engine = Engine(checkpoint("sana-1.5"))
    engine.generate([replace(edit(1.0), image=None)])
    assert engine.core.runner.encoder._encoder is None
    engine.generate([edit(0.5)])
    assert engine.core.runner.encoder._encoder is not None


def test_image_of_another_size_is_refused(engine: Callable[[str], Engine]) -> None:
    with pytest.raises(InvalidParams, match="96x160 pixels"):
        engine("sana-1.0").core.submit(Submit("1", edit(0.5, height=160)))


def test_mask_depth_counts_from_the_edge_of_the_mask() -> None:
    mask = np.zeros((5, 7), bool)
    mask[:, 2:] = True
    assert mask_depth(mask, 2).tolist() == [[0, 0, 1, 2, 3, 3, 3]] * 5
    assert mask_depth(mask, 0).tolist() == [[0, 0, 1, 1, 1, 1, 1]] * 5


def test_latent_mask_has_cells_with_any_pixel() -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[33, 40] = 1
    assert latent_mask(mask, 32)[:, 0].tolist() == [False] * 4 + [True] + [False]


def test_feather_blends_inside_the_mask_only() -> None:
    mask = half_mask()
    params = edit(1.0, mask=mask, image=SourceImage(bytes(3 * mask.size), mask.tobytes()), mask_feather=3)
    pixels = np.full((SIZE[1], SIZE[0], 3), 200, np.uint8)
    keep_unmasked(pixels, params)
    assert pixels[5, 37:46, 0].tolist() == [0, 0, 0, 50, 100, 150, 200, 200, 200]
