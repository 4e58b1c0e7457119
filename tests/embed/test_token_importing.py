"""Imported tokens: region features as the field has them, and arrays of one's own."""

import json

import numpy as np
import pytest

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed import token_importing
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_projection import read_projections
from xmrank.runtime.errors import ConfigError, DataError

SPLITS = {"train": 4, "dev": 2, "test": 2}
REGIONS, WIDTH = 3, 6


@pytest.fixture
def folder(tmp_path):
    """Region features of eight images, their captions, and embeddings."""
    generator = np.random.default_rng(0)
    (tmp_path / "regions").mkdir()
    for name, images in SPLITS.items():
        np.save(
            tmp_path / f"regions/{name}_ims.npy", generator.normal(size=(images, REGIONS, WIDTH)).astype(np.float32)
        )
        captions = [f"{name} image {row} caption {number}" for row in range(images) for number in range(5)]
        (tmp_path / f"regions/{name}_caps.txt").write_text("\n".join(captions) + "\n")
    np.save(tmp_path / "I.npy", generator.normal(size=(8, 4)))
    np.save(tmp_path / "T.npy", generator.normal(size=(40, 4)))
    return tmp_path


def regions_of(folder):
    return np.concatenate([np.load(folder / f"regions/{name}_ims.npy") for name in SPLITS])


def import_regions(folder, output="store", **parameters):
    files = {"import_images": folder / "I.npy", "import_texts": folder / "T.npy"}
    dataset = ArraySettings(**files, import_regions=folder / "regions")
    return embed(EmbedConfig(output=folder / output, dataset=dataset, **parameters))


def refusal(folder, **parameters):
    with pytest.raises(DataError) as caught:
        import_regions(folder, **parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def test_region_features_become_image_tokens(folder, capsys):
    manifest = import_regions(folder)
    assert manifest.counts == {"images": 8, "captions": 40, "image_tokens": 24}
    assert manifest.config["tokens"] == {"width": 128, "dtype": "float16", "seed": 0}
    # 3 regions of 6 float16 numbers, and an offset.
    assert "embed: 3 tokens and 44 bytes an image: 0.352 kB of tokens in all\n" in capsys.readouterr().out
    store = EmbeddingStore.open(folder / "store", verify=True)
    values, mask = store.tokens("image").gather(np.arange(8))
    assert mask.all()
    np.testing.assert_allclose(values, regions_of(folder), atol=1e-3)
    assert store.images["image_id"].to_pylist()[3:5] == ["train/3", "dev/0"]
    assert store.images["split"].to_pylist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert store.image_of_caption.tolist() == np.repeat(range(8), 5).tolist()
    assert store.captions["text"][21].as_py() == "dev image 0 caption 1"
    # The captions' tokens are their vectors.
    assert store.tokens("text").gather(np.array([7]))[0].shape == (1, 1, 4)
    assert import_regions(folder) == manifest


def test_repeated_images_are_read_once(folder):
    plain = import_regions(folder)
    for name in SPLITS:
        path = folder / f"regions/{name}_ims.npy"
        np.save(path, np.load(path).repeat(5, axis=0))
    repeated = import_regions(folder, "repeated")
    assert repeated.outputs == plain.outputs


@pytest.mark.parametrize("block", [3, 1000])
def test_wide_regions_are_projected_and_quantised(folder, monkeypatch, block):
    monkeypatch.setattr(token_importing, "BLOCK", block)
    import_regions(folder, token_width=2, token_dtype="int8")  # noqa: S106
    store, regions = EmbeddingStore.open(folder / "store"), regions_of(folder)
    tokens = store.tokens("image")
    assert (tokens.dtype, tokens.width) == (np.int8, 2)
    # The axes of the training images alone.
    centred = regions[:4].reshape(-1, WIDTH) - regions[:4].reshape(-1, WIDTH).mean(0)
    axes = np.linalg.svd(centred)[2][:2]
    projection = read_projections(folder / "store")["image"]
    np.testing.assert_allclose(np.abs(projection.axes @ axes.T), np.eye(2), atol=1e-5)
    expected = (regions - projection.mean.numpy()) @ projection.axes.numpy().T
    np.testing.assert_allclose(tokens.gather(np.arange(8))[0], expected, atol=np.abs(expected).max() / 250)


def test_arrays_of_ones_own_may_have_offsets(tmp_path):
    ids = {"image_ids": ["a", "b"], "split": ["train", "test"], "caption_ids": ["a0", "b0"], "caption_image": [0, 1]}
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    words = np.arange(8.0).reshape(4, 2)
    arrays = {"images": np.eye(2), "texts": np.eye(2), "image_tokens": np.ones((2, 3, 5))}
    arrays |= {"text_tokens": words, "text_token_offsets": np.array([0, 3, 4])}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = {f"import_{name}": tmp_path / f"{name}.npy" for name in arrays}
    dataset = ArraySettings(**files, import_ids=tmp_path / "ids.json")
    manifest = embed(EmbedConfig(output=tmp_path / "store", dataset=dataset))
    assert manifest.counts["image_tokens"] == 6 and manifest.counts["text_tokens"] == 4
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.tokens("image").counts.tolist() == [3, 3]
    values, mask = store.tokens("text").gather(np.array([1, 0]))
    assert values[mask].tolist() == [[6, 7], [0, 1], [2, 3], [4, 5]]
    np.save(tmp_path / "image_tokens.npy", np.ones((3, 3, 5)))
    with pytest.raises(DataError, match=r"tokens of 3 items, the store has 2 \(--import-image-tokens\)"):
        embed(EmbedConfig(output=tmp_path / "other", dataset=dataset))


def test_files_that_do_not_fit_are_named(folder):
    captions, images = folder / "regions/dev_caps.txt", folder / "regions/dev_ims.npy"
    whole = captions.read_text()
    captions.write_text(whole.replace("dev image 0 caption 2", " "))
    assert refusal(folder) == "regions/dev_caps.txt: line 3 is empty, expected a caption (--import-regions)"
    captions.write_text(whole + "one more\n")
    assert refusal(folder) == (
        "regions/dev_ims.npy: 2 rows for 11 captions, expected 5 captions a row (--import-regions)"
    )
    captions.unlink()
    assert refusal(folder) == "regions/dev_caps.txt: no such file, though dev_ims.npy is there"
    captions.write_text(whole)
    np.save(images, np.random.default_rng(0).normal(size=(10, REGIONS, WIDTH)))
    assert "dev_ims.npy: as many rows as captions, but the first 5 are different images" in refusal(folder)
    np.save(images, np.ones((2, REGIONS, WIDTH + 1)))
    assert "regions: regions of different widths: {'train_ims.npy': 6, 'dev_ims.npy': 7" in refusal(folder)
    np.save(images, np.ones((2, WIDTH)))
    assert refusal(folder) == "dev_ims.npy: shape [2, 6], expected [items, tokens, width], or offsets too"
    values = np.ones((2, REGIONS, WIDTH))
    values[1, 2, 0] = np.nan
    np.save(images, values)
    assert refusal(folder) == "dev_ims.npy: the tokens of row 1 hold NaN or infinity"
    values[1, 2, 0] = 1e6
    np.save(images, values)
    assert refusal(folder, output="other") == "dev_ims.npy: beyond float16; give --token-dtype int8"
    for path in (folder / "regions").iterdir():
        path.unlink()
    assert refusal(folder) == ("regions: no train_ims.npy, dev_ims.npy or test_ims.npy in it (--import-regions)")


def test_only_what_imported_tokens_have_may_be_set(folder):
    with pytest.raises(ConfigError, match="--token-grid 4: only with --tokens"):
        import_regions(folder, token_grid=4)
    with pytest.raises(ConfigError, match="--tokens: an import encodes nothing; give --import-image-tokens"):
        import_regions(folder, tokens=True)
