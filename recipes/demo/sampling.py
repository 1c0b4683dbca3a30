"""Images from the networks in training, by the server's own solver, for the sample grids."""

import torch

from engine.worker.solver import dpmpp_2m_schedule
from kernels.guided_step import solver_step

from .autoencoder import Autoencoder
from .diffusion import Generator
from .precision import autocast
from .settings import COMPRESSION, FLOW_SHIFT, LATENT_CHANNELS

PROMPTS = (
    "a red circle",
    "a blue square",
    "a large yellow star",
    "a small green triangle",
    "a purple ring on a light blue background",
    "a pink heart",
    "a red circle to the left of a blue square",
    "a green star to the right of an orange heart",
    "a yellow triangle above a purple circle",
    "a black ring below a brown square",
    "two orange hearts",
    "three blue circles",
    "four green squares",
    "a white star and a red ring",
    "a gray square on the left and a pink triangle on the right",
    "an orange circle on a gradient background",
)


@torch.no_grad()
def sample(
    generator: Generator,
    prompts: tuple[str, ...],
    size: int = 256,
    steps: int = 20,
    guidance: float = 4.5,
    seed: int = 0,
) -> torch.Tensor:
    """Latents [N, h, w, 32] of unit scale, one per prompt; image k starts from seed + k."""
    side, device = size // COMPRESSION, generator.text_encoder.device
    noise = [
        torch.randn(1, LATENT_CHANNELS, side, side, generator=torch.Generator().manual_seed(seed + k))
        for k in range(len(prompts))
    ]
    texts = [generator.text_encoder.token_ids(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda k: -len(texts[k]))
    x = torch.cat([noise[k] for k in order]).permute(0, 2, 3, 1).to(device)
    schedule = dpmpp_2m_schedule(steps, FLOW_SHIFT)
    old = torch.zeros_like(x)
    for step in range(steps):
        times = schedule.times[step].expand(2 * len(x)).to(device) / 1000
        with autocast(device):
            output = generator(torch.cat([x, x]), times, [texts[k] for k in order] + [[]] * len(x)).float()
        conditional, unconditional = output.chunk(2)
        velocity = unconditional + guidance * (conditional - unconditional)
        x, old = solver_step(x, velocity, old, old, torch.tensor(schedule.coefficients[step], device=device))
    return x[torch.tensor(order, device=device).argsort()]


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents: torch.Tensor) -> torch.Tensor:
    """Decodes latents of unit scale [N, h, w, 32] to pixels [N, 3, H, W] in [-1, 1]."""
    with autocast(autoencoder.device):
        return autoencoder.decoder(latents.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)).float()
