"""Checkpoint formats: finding, reading and loading the weights of a model."""
