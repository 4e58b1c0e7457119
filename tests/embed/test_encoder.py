"""Encoders: the bundled one, untrained ones, local checkpoints, and what is refused."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from xmrank.datasets.scenes.generate import compose_scene, draw_scene
from xmrank.embed.encoder import Encoder, hash_weights, load_encoder
from xmrank.embed.model_source import BUNDLED
from xmrank.runtime.errors import ConfigError
from xmrank.train_encoder.contrastive import draw_pairs, embed_pairs, hit_at_1

WEIGHTS = BUNDLED / "xmrank-tiny.safetensors"
VIT = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("xmrank-tiny")


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> str:
    """The name of a vision transformer that takes no time to make."""
    path = tmp_path_factory.mktemp("configs") / "xmrank-test-vit.json"
    path.write_text(json.dumps(VIT))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture(scope="module")
def embeddings(tiny):
    """The default test split, embedded: 400 images and 2,000 captions."""
    return embed_pairs(tiny, draw_pairs(tiny, seed=0, split="test", numbers=range(400)))


def test_bundled_weights_are_what_open_clip_loads(tiny):
    model, _, preprocess = open_clip.create_model_and_transforms("xmrank-tiny", pretrained=str(WEIGHTS))
    assert hash_weights(model) == tiny.weights_hash
    image = draw_scene(compose_scene(0, "test", 0))
    assert torch.equal(preprocess(image), tiny.preprocess(image))


def test_bundled_weights_are_small_and_in_half_precision():
    assert WEIGHTS.stat().st_size < 16e6
    assert open_clip.factory.load_state_dict(str(WEIGHTS))["text_projection"].dtype == torch.float16


def test_bundled_is_the_default_of_tiny_only(tiny):
    assert load_encoder("xmrank-tiny", "bundled").weights_hash == tiny.weights_hash
    with pytest.raises(ConfigError, match="--pretrained bundled: no such tag or file"):
        load_encoder("ViT-B-32", "bundled")


def test_description(tiny):
    assert (tiny.name, tiny.dimensions) == ("xmrank-tiny", 256)
    assert tiny.preprocessing["image"]["size"] == 64
    assert tiny.preprocessing["context_length"] == 28
    assert json.loads(json.dumps(tiny.preprocessing)) == tiny.preprocessing


def test_embeddings_are_unit_vectors(tiny):
    images = torch.stack([tiny.preprocess(Image.new("RGB", (120, 80), colour)) for colour in ("red", "blue", "black")])
    for vectors in (tiny.encode_images(images), tiny.encode_texts(["a red star", "", "a dog chases a ball " * 40])):
        assert vectors.shape == (3, 256)
        assert vectors.dtype == torch.float32
        assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_an_embedding_does_not_depend_on_its_batch(tiny):
    texts = ["a red star", "There is a small blue seven in the top left corner."]
    alone = torch.cat([tiny.encode_texts([text]) for text in texts])
    assert torch.allclose(tiny.encode_texts(texts), alone, atol=1e-6)


def test_unknown_words_say_nothing(tiny):
    table = tiny.model.token_embedding.weight
    known = tiny.tokenizer(["a red star above the cross"])[0]
    assert (table[known[:7]].abs().sum(dim=1) > 0).all()
    assert torch.equal(tiny.encode_texts(["a dog"]), tiny.encode_texts(["a cat"]))


def test_default_scenes_are_neither_trivial_nor_random(embeddings):
    images, texts = embeddings
    hits = hit_at_1(images @ texts.T, captions=5)
    # In a gallery of 400, of which docs/encoder.md has the figures; by chance: 1 in 1,000 and 1 in 400.
    assert all(10 <= value <= 65 for value in hits.values()), hits


def test_a_hundred_scenes_are_far_above_chance(embeddings):
    images, texts = embeddings[0][:100], embeddings[1][:500]
    hits = hit_at_1(images @ texts.T, captions=5)
    assert all(value > 30 for value in hits.values()), hits  # by chance: 1 in either direction


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_close(tiny, precision):
    lower = load_encoder("xmrank-tiny", precision=precision)
    image = tiny.preprocess(draw_scene(compose_scene(0, "test", 1)))[None]
    for one, other in [
        (tiny.encode_images(image), lower.encode_images(image)),
        (tiny.encode_texts(["a red star"]), lower.encode_texts(["a red star"])),
    ]:
        assert other.dtype == torch.float32
        assert (one @ other.T).item() == pytest.approx(1.0, abs=0.01)


def test_untrained_model_follows_its_seed(vit):
    before = torch.random.get_rng_state()
    one, same, other = (load_encoder(vit, "none", init_seed=seed) for seed in (5, 5, 6))
    assert one.weights_hash == same.weights_hash != other.weights_hash
    assert torch.equal(before, torch.random.get_rng_state())
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(one.encode_images(image), same.encode_images(image))
    assert one.encode_images(image).shape == (2, 24)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", "-training.pt"])
def test_local_checkpoint(vit, tmp_path, suffix):
    source = load_encoder(vit, "none", init_seed=1)
    path = tmp_path / f"weights{suffix}"
    state = source.model.state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pt":
        torch.save(state, path)
    else:  # as open_clip's own training writes it
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    assert load_encoder(vit, str(path)).weights_hash == source.weights_hash


class Trap:
    """Pickles into a call that leaves a file behind when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_checkpoint_with_code_is_refused_unrun(vit, tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": {"weight": Trap(tmp_path / "sprung")}}, tmp_path / f"trap{suffix}")
    with pytest.raises(ConfigError, match=r"trap.*expected weights only, anything else may run code") as refusal:
        load_encoder(vit, str(tmp_path / f"trap{suffix}"))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "sprung").exists()


def test_checkpoint_of_another_model_is_refused(vit):
    with pytest.raises(ConfigError, match=f"xmrank-tiny.safetensors: does not fit {vit}: ") as refusal:
        load_encoder(vit, str(WEIGHTS))
    assert "\n" not in str(refusal.value)


def test_file_that_is_no_checkpoint_is_refused(vit, tmp_path):
    for name, message in [("a.safetensors", "does not fit"), ("a.pt", "expected weights only"), ("a.txt", "ends in")]:
        (tmp_path / name).write_text("hello")
        with pytest.raises(ConfigError, match=message):
            load_encoder(vit, str(tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B-99",), r"--model ViT-B-99: open_clip has no such model; close to it: ViT-B-32, ViT-B-16"),
        (("xmrank-tyni",), r"close to it: xmrank-tiny"),
        (("???",), r"close to it: xmrank-tiny, ViT-B-32, RN50"),
        (("ViT-B-32", "openay"), r"--pretrained openay: no such tag or file; expected a tag of ViT-B-32 \(openai, "),
        (("xmrank-tiny", "openai"), r"expected a tag of xmrank-tiny \(bundled\), the path of a checkpoint, or none"),
        (("ViT-B-32",), r"--pretrained: expected a tag of ViT-B-32"),
        (("ViT-B-32", "none"), r"--pretrained none: an untrained model needs --init-seed"),
    ],
)
def test_unknown_model_or_weights(arguments, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        load_encoder(*arguments)
    assert "\n" not in str(refusal.value)


def test_seed_belongs_to_an_untrained_model():
    with pytest.raises(ConfigError, match="--init-seed 3: only an untrained model takes it"):
        load_encoder("xmrank-tiny", init_seed=3)


def test_unknown_precision():
    with pytest.raises(ConfigError, match="--precision int3: expected one of fp32, bf16, fp16"):
        load_encoder("xmrank-tiny", precision="int3")


def test_failed_download_says_so(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known\nand much more")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", unreachable)
    with pytest.raises(
        ConfigError, match=r"openai: the weights could not be downloaded from timm/.*not known"
    ) as failure:
        load_encoder("ViT-B-32", "openai")
    assert "\n" not in str(failure.value)
