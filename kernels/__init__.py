"""The model's ops: for each a formula, a plain-torch reference and a launcher, all on the packed token matrix.

This package must never define a version attribute: transformers probes for Hugging Face's package of the same name.
"""
