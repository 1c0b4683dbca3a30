"""Parts of training with a known answer: ops against references, folding, times, one step."""

from pathlib import Path
from random import Random

import pytest
import torch

from engine.models import dc_ae_blocks, sana_blocks
from engine.models.sana import SanaTransformer
from kernels.cross_attention import cross_attention_reference
from kernels.layout import TokenLayout
from kernels.rms_norm import rms_norm_reference
from recipes.demo import training_ops
from recipes.demo.autoencoder import Autoencoder, reconstruction_loss, training_batch
from recipes.demo.diffusion import REPEATS, Generator, Rates, Stage, flow_loss, shifted_times, train_generator
from recipes.demo.export import export, restore_autoencoder, restore_text_encoder, restore_transformer
from recipes.demo.latents import LatentSet, encode_scenes
from recipes.demo.optimizer import Muon, orthogonalized, schedule
from recipes.demo.standardize import standardized
from recipes.demo.text import TextEncoder, carried_embeddings, load_tokenizer, train_tokenizer
from recipes.demo.training_ops import cross_attention, rms_norm
from recipes.demo.world import sample_scene


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("work")
    train_tokenizer(scenes=20).save(str(path / "tokenizer.json"))
    return path


def generator(work: Path) -> Generator:
    return Generator(TextEncoder(load_tokenizer(work)))


def some_latents(count: int = 6) -> LatentSet:
    torch.manual_seed(0)
    return LatentSet(torch.randn(count, 2, 2, 32).half(), [sample_scene(Random(i)) for i in range(count)])


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_orthogonalized_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(3, *shape)))
    assert values.median() > 0.6
    assert values.max() < 1.4


def test_muon_reduces_the_loss() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 16)
    inputs, wanted = torch.randn(64, 16), torch.randn(64, 16)
    optimizer = Muon(model.named_parameters(), lr=0.02, adam_lr=0.02, decay=0.0)
    losses = []
    for _ in range(30):
        loss = (model(inputs) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_schedule_rises_holds_and_falls() -> None:
    assert schedule(0.0) < 0.02
    assert schedule(0.1) == schedule(0.3) == 1.0
    assert schedule(0.6) > schedule(0.9) > schedule(1.0) == pytest.approx(0.02)


@pytest.mark.parametrize("biased", [True, False])
def test_training_rms_norm_equals_reference(biased: bool) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(5, 7, 32), torch.randn(32), torch.randn(32)][: 2 + biased]
    wanted = torch.randn(5, 7, 32)
    results = []
    for op in (rms_norm_reference, rms_norm):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = op(*leaves)
        results.append((out, *torch.autograd.grad((out * wanted).sum(), leaves)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_training_ops_replace_those_of_the_models(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loss with and without them, and both were really called."""
    called = []
    names = ("rms_norm", "linear_attention", "cross_attention")
    for module, name in (*((sana_blocks, name) for name in names), (dc_ae_blocks, "rms_norm")):
        monkeypatch.setattr(module, name, getattr(module, name))  # restores them after the test
    for name in names:
        op = getattr(training_ops, name)
        monkeypatch.setattr(training_ops, name, lambda *a, _op=op, **k: (called.append(_op.__name__), _op(*a, **k))[1])
    torch.manual_seed(0)
    model, data = generator(work), some_latents(16)
    losses = []
    for patch in (lambda: None, training_ops.use_training_ops):
        patch()
        torch.manual_seed(1)
        losses.append(flow_loss(model, data, 16, Random(0))[1].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert set(called) == set(names)


def test_training_cross_attention_equals_reference() -> None:
    torch.manual_seed(0)
    texts = ((0, 5), (0, 5), (5, 8), (5, 8), (8, 9), (8, 9))  # the last two: the empty prompt
    layout = TokenLayout(((2, 2),) * 6, texts, torch.device("cpu"))
    q, k, v = torch.randn(16, 3, 8), torch.randn(9, 3, 8), torch.randn(9, 3, 8)
    torch.testing.assert_close(cross_attention(q, k, v, layout), cross_attention_reference(q, k, v, layout))


def test_standardized_latents_decode_to_same_images() -> None:
    torch.manual_seed(0)
    model = Autoencoder(shortcuts=True)
    images = training_batch(Random(0), 4)
    folded = standardized(model, images)
    with torch.no_grad():
        latents = folded.encoder(images)
        assert latents.mean((0, 2, 3)).abs().max() < 1e-3
        assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-2
        before = model.decoder.conv_in(model.encoder(images))
        before = before + model.encoder(images).repeat_interleave(model.decoder.repeats, dim=1)
        after = folded.decoder.conv_in(latents)
    torch.testing.assert_close(before[..., 1:-1, 1:-1], after[..., 1:-1, 1:-1], rtol=1e-3, atol=1e-3)


def test_reconstruction_loss_is_zero_for_equal_images() -> None:
    images = training_batch(Random(1), 2)
    assert images.shape == (2, 3, 128, 128)
    assert images.abs().max() <= 1
    assert reconstruction_loss(images, images) < 2e-4  # the root is taken of a small positive number
    assert reconstruction_loss(images * 0.9, images) > 0.05


def test_shifted_times_are_stratified() -> None:
    torch.manual_seed(0)
    times = shifted_times(500, REPEATS).view(500, REPEATS)
    assert times.min() > 0
    assert times.max() < 1
    assert 0.7 < times.median() < 0.8  # logit-normal with shift 3: sigma 0.75 in the middle
    assert (times.diff(dim=1) > 0).all()  # one per quarter of the distribution


def test_new_generator_has_zero_velocity_and_gradients(work: Path) -> None:
    torch.manual_seed(0)
    model, data = generator(work), some_latents(64)
    flow, alignment = flow_loss(model, data, 64, Random(0))
    assert flow.item() == pytest.approx(2.0, rel=0.1)  # |eps - x0|^2 with both of unit variance
    (flow + alignment).backward()
    assert isinstance(model.transformer, SanaTransformer)
    for weight in (model.transformer.proj_out.weight, model.probe.weight, model.transformer.patch_embed.proj.weight):
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().sum() > 0


def test_interrupted_training_resumes(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [Stage(((some_latents(8), 8, 1.0),), 1e-3)]
    torch.manual_seed(0)
    model, average = generator(work), generator(work)
    train_generator(model, average, tmp_path, stages, Rates(2e-3, text=4e-4))
    state = torch.load(tmp_path / "generator.pt", weights_only=True)
    assert state["step"] >= 1
    assert torch.equal(state["average"]["transformer.proj_out.weight"], average.transformer.proj_out.weight)
    again = generator(work)
    train_generator(
        generator(work), again, tmp_path, stages, Rates(2e-3, text=4e-4)
    )  # the budget is spent: no step is left
    for name, tensor in average.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.load(tmp_path / "generator.pt", weights_only=True)["step"] == state["step"]


def test_latents_are_cached_with_their_scenes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    first = encode_scenes(model, 64, 96, 3, tmp_path)
    again = encode_scenes(model, 64, 96, 3, tmp_path)
    assert first.latents.shape == (3, 2, 3, 32)
    assert first.cells.shape == (3, 6, 4)
    assert torch.equal(first.latents, again.latents)
    assert first.scenes == again.scenes


def test_export_writes_small_diffusers_checkpoint(work: Path, tmp_path: Path) -> None:
    export(Autoencoder(), generator(work), tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"model_index.json", "vae/config.json", "transformer/config.json", "tokenizer/tokenizer.json"} <= files
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 25_000_000


def test_restore_loads_an_exported_checkpoint(work: Path, tmp_path: Path) -> None:
    first = (Autoencoder(), generator(work))
    export(*first, tmp_path)
    autoencoder, other = Autoencoder(), generator(work)
    restore_autoencoder(autoencoder, tmp_path)
    restore_text_encoder(other.text_encoder, tmp_path)
    restore_transformer(other, tmp_path)
    used = other.text_encoder.tokenizer.get_vocab_size()
    for before, after in zip(first, (autoencoder, other), strict=True):
        for name, tensor in after.state_dict().items():
            if not name.startswith("probe"):
                kept, wanted = tensor, before.state_dict()[name].bfloat16().float()
                if name.endswith("embed_tokens.weight"):  # rows beyond the tokenizer's words belong to no token
                    kept, wanted = kept[:used], wanted[:used]
                assert torch.equal(kept, wanted), name


def test_restored_embeddings_of_new_words_are_means_of_their_pieces(work: Path) -> None:
    old, new = train_tokenizer(scenes=2), load_tokenizer(work)
    weight = torch.randn(old.get_vocab_size(), 4)
    carried = carried_embeddings(old, weight, new)
    token = next(t for t in new.get_vocab() if t not in old.get_vocab())
    pieces = old.encode(token.replace("\N{LOWER ONE EIGHTH BLOCK}", " "), add_special_tokens=False).ids
    assert len(pieces) > 1
    torch.testing.assert_close(carried[new.token_to_id(token)], weight[pieces].mean(0))
    torch.testing.assert_close(carried[new.token_to_id("<bos>")], weight[old.token_to_id("<bos>")])
