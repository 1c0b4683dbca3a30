"""Names of a job's objects, which follow from their content, and the places that hold them."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from deploy.ray.objects import Bucket, Folder, Place, image_objects, open_place, shard_name, tar_shard
from engine import InvalidParams, ModelInfo, SanaError
from server.writing import OutputError

MODEL = ModelInfo("demo", (256, 256), 20, 4.5, 32, 4096, 0, "cpu", "float32")
ROW = {"prompt": "a red circle", "size": "64x64", "seed": 7}


def names(row: dict[str, object], weights: str = "w") -> list[str]:
    return [image.name for image in image_objects(row, MODEL, weights)]


def test_name_is_the_same_for_the_same_content() -> None:
    assert names(ROW) == names({**ROW, "num_inference_steps": 20, "quality": None, "custom_id": "x"})


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue circle"},
        {"size": "64x96"},
        {"seed": 8},
        {"num_inference_steps": 3},
        {"guidance_scale": 1.0},
        {"negative_prompt": "blue"},
        {"output_format": "webp"},
        {"embed_params": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_name_differs_for_other_content(change: dict[str, object]) -> None:
    assert names(ROW) != names({**ROW, **change})


def test_name_differs_for_other_weights() -> None:
    assert names(ROW) != names(ROW, "others")


def test_images_of_a_row_are_those_of_consecutive_seeds() -> None:
    assert names({**ROW, "n": 3}) == [name for seed in (7, 8, 9) for name in names({**ROW, "seed": seed})]


def test_row_without_seed_gets_one_from_its_content() -> None:
    unseeded = {"prompt": "a red circle", "size": "64x64"}
    (first,), (again,) = image_objects(unseeded, MODEL, "w"), image_objects({**unseeded, "seed": -1}, MODEL, "w")
    (other,) = image_objects({**unseeded, "prompt": "two squares"}, MODEL, "w")
    assert first == again
    assert first.params.seed != other.params.seed


@pytest.mark.parametrize("change", [{"n": 0}, {"size": "huge"}, {"prompt": None}, {"stream": True}])
def test_invalid_row_raises(change: dict[str, object]) -> None:
    with pytest.raises((InvalidParams, SanaError)):
        image_objects({**ROW, **change}, MODEL, "w")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "folder":
        yield open_place(str(tmp_path / "new" / "images"))
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="images")
        yield open_place("s3://images/run/1")


def test_place_has_what_was_written(place: Place) -> None:
    assert not place.exists("a.png")
    place.write("a.png", b"image")
    assert place.exists("a.png")
    assert not place.exists("b.png")


def test_place_that_cannot_be_used_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        Folder(tmp_path / "file")
    with pytest.raises(SanaError, match="without a bucket"):
        Bucket("s3://")


def test_shard_holds_each_image_beside_its_params() -> None:
    images = image_objects({**ROW, "n": 2}, MODEL, "w")
    with tarfile.open(fileobj=io.BytesIO(tar_shard(images, [b"one", b"two"]))) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert [members[image.file_name] for image in images] == [b"one", b"two"]
    assert json.loads(members[f"{images[1].name}.json"])["seed"] == 8


def test_shard_name_follows_from_its_images() -> None:
    images = image_objects({**ROW, "n": 2}, MODEL, "w")
    assert shard_name(images, "webdataset") == shard_name(list(images), "webdataset")
    assert shard_name(images, "parquet").endswith(".parquet")
    assert shard_name(images[:1], "parquet") != shard_name(images, "parquet")
    assert shard_name([replace(image) for image in images], "parquet") == shard_name(images, "parquet")
