"""How the embedded demo checkpoint was made: a SANA trained from scratch on a procedural world (see README.md)."""
