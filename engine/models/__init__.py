"""The networks that run on the device; parameter names are those of the diffusers checkpoints."""
