from fractions import Fraction

import httpx
import openai
import pytest


def test_model_and_aliases_listed(client: openai.OpenAI) -> None:
    entries = client.models.list().data
    assert [entry.id for entry in entries] == ["demo", "dall-e-3", "gpt-image-1"]
    for entry in entries:
        assert (entry.object, entry.owned_by) == ("model", "sana-serve")
        assert entry.created > 0
        assert client.models.retrieve(entry.id) == entry
        assert entry.root == "demo"  # type: ignore[attr-defined]


def test_model_object_has_limits(http: httpx.Client) -> None:
    model = http.get("/v1/models/demo").json()
    assert model["default_size"] == "256x256" == model["sizes"][0]
    assert model["native_size"] == "256x256"
    ratios = [Fraction(*map(int, size.split("x"))) for size in model["sizes"]]
    assert [str(ratio) for ratio in ratios] == ["1", "3/2", "2/3", "4/3", "3/4", "16/9", "9/16"]
    assert (model["size_multiple"], model["min_side"], model["max_side"]) == (32, 32, 4096)
    assert (model["max_n"], model["max_steps"]) == (10, 100)
    assert (model["device"], model["dtype"]) == ("cpu", "float32")
    assert model["dtype_reason"]
    assert model["quality_steps"] == {"low": 10, "medium": 20, "high": 30, "xhigh": 40, "max": 50}


@pytest.mark.parametrize("name", ["gpt-image-2", "org/name", "ü", "a?b"])
def test_unknown_model_gets_404(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert name in caught.value.message
