"""The ops of the model, one file each: formula, plain-torch reference, Triton kernel and launcher.

Every op works on the packed token matrix [T, C] of `layout.py` or on the pixels of the autoencoder. The package must
never define a version attribute: transformers probes for Hugging Face's package of the same name.
"""
