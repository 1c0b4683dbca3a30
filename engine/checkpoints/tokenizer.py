"""Gemma's tokenizer, from the file of the library `tokenizers` that every released checkpoint has."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from ..errors import CheckpointError
from .damage import describe_damage

BOS = "<bos>"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`; it adds <bos> and nothing else to a text. Raises CheckpointError naming the file."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no tokenizer: tokenizer.json is missing")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        reason = describe_damage(path) or f"{path} is not a usable tokenizer: {(str(error).splitlines() or ['?'])[0]}"
        raise CheckpointError(reason) from error
    bos = tokenizer.token_to_id(BOS)
    if bos is None:
        raise CheckpointError(f"{path} is not Gemma's tokenizer: it has no token {BOS}")
    # The file may hold what it was last used with: truncation, padding, or another template.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return tokenizer
