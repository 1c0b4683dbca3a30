import openai
import pytest


def test_the_one_model_is_listed_and_found(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.object == "model"
    assert model.created > 0
    assert model.owned_by == "sana-serve"
    assert client.models.retrieve(model.id) == model


@pytest.mark.parametrize("name", ["gpt-image-1", "org/name", "ü", "a?b"])
def test_others_are_not_found(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert name in caught.value.message
