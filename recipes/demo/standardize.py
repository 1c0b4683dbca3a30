"""Latents of zero mean and unit deviation per channel, folded into two convolutions: the format has one scale only.

The encoder's last and the decoder's first convolution are followed or preceded by linear shortcuts (channel averages,
channel repeats). Those are 1x1 convolutions, so they fold into the centre tap; then any affine map of the latents folds
into the weights. Only the meaning of the decoder's zero padding changes, which the last training of the decoder (with
this encoder frozen) corrects.
"""

import torch

from .autoencoder import Autoencoder
from .settings import LATENT_CHANNELS


@torch.no_grad()
def standardized(model: Autoencoder, images: torch.Tensor) -> Autoencoder:
    """A model without latent shortcuts whose encoder standardizes each channel, measured on images [N, 3, H, W]."""
    latents = model.encoder(images).movedim(1, -1).flatten(0, -2)
    mean, deviation = latents.mean(0), latents.std(0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    weight, bias = state["encoder.conv_out.weight"], state["encoder.conv_out.bias"]
    group = weight.shape[1] // LATENT_CHANNELS
    for channel in range(weight.shape[1]):
        weight[channel // group, channel, 1, 1] += 1 / group
    weight.div_(deviation[:, None, None, None])
    bias.sub_(mean).div_(deviation)

    weight, bias = state["decoder.conv_in.weight"], state["decoder.conv_in.bias"]
    repeats = weight.shape[0] // LATENT_CHANNELS
    for channel in range(weight.shape[0]):
        weight[channel, channel // repeats, 1, 1] += 1
    bias.add_(torch.einsum("oihw,i->o", weight, mean))
    weight.mul_(deviation[None, :, None, None])

    folded = Autoencoder()
    folded.load_state_dict(state)
    return folded
