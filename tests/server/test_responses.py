import base64
import json

import pytest

from engine import GenerationParams, ModelInfo
from server.responses import IMAGE_MARK, PIECE_BYTES, json_length, json_pieces, usage


@pytest.mark.parametrize("sizes", [[], [1], [PIECE_BYTES], [PIECE_BYTES + 1, 0, 2 * PIECE_BYTES - 1]], ids=str)
def test_json_pieces_join_to_valid_response(sizes: list[int]) -> None:
    images = [bytes(range(256)) * (size // 256) + bytes(size % 256) for size in sizes]
    data = [{"b64_json": IMAGE_MARK, "seed": 1} for _ in images]
    # a model may be called anything: only the field's own mark is replaced
    frame = json.dumps({"model": '@"b64_json":"@"', "data": data, "end": "@"}, separators=(",", ":")).encode()
    body = b"".join(json_pieces(frame, images))
    assert len(body) == json_length(frame, images)
    whole = json.loads(body)
    assert [base64.b64decode(entry["b64_json"], validate=True) for entry in whole["data"]] == images
    assert whole["model"] == '@"b64_json":"@"'


def test_usage_counts_transformer_tokens() -> None:
    model = ModelInfo("m", (512, 256), 20, 4.5, 32, 4096, 0, "cpu", "float32")
    used = usage(GenerationParams("a cat", 512, 256, 20, 4.5, 0), model, images=3, text=7)
    assert used.output_tokens == used.output_tokens_details.image_tokens == 3 * 16 * 8
    assert used.input_tokens == used.input_tokens_details.text_tokens == 7
    assert used.total_tokens == used.input_tokens + used.output_tokens
