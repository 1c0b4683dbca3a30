"""Training of the demo checkpoint: a SANA from scratch on a procedural world (see README.md)."""
