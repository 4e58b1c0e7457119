"""Imports at a URI are the same stores as local ones."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ArraySettings, ClipRetrievalSettings
from xmrank.embed.stage import embed
from xmrank.runtime.errors import DataError

REMOTE = "memory://imports"


@pytest.fixture
def folder(tmp_path):
    """The files of both kinds of imports, here and at a URI."""
    rows = np.eye(10, 4, dtype=np.float32) + 0.1
    np.save(tmp_path / "I.npy", rows[:2])
    np.save(tmp_path / "T.npy", rows)
    ids = {"image_ids": ["a", "b"], "caption_ids": list(range(10)), "split": ["train", "test"]}
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    for kind in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "clip" / kind).mkdir(parents=True)
    np.save(tmp_path / "clip/img_emb/img_emb_0.npy", rows[:3])
    np.save(tmp_path / "clip/text_emb/text_emb_0.npy", rows[:3])
    captions = {
        "image_path": ["a.jpg", "b.jpg", "c.jpg"],
        "caption": ["a", "b", "c"],
        "split": ["train", "val", "test"],
    }
    pd.DataFrame(captions).to_parquet(tmp_path / "clip/metadata/metadata_0.parquet")
    memory = fsspec.filesystem("memory")
    for path in tmp_path.rglob("*.*"):
        memory.pipe_file(f"/imports/{path.relative_to(tmp_path)}", path.read_bytes())
    yield tmp_path
    memory.rm("/imports", recursive=True)


def flags(root):
    """Both imports, from a root."""
    named = {"import_images": "I.npy", "import_texts": "T.npy", "import_ids": "ids.json"}
    arrays = ArraySettings(**{flag: Path(f"{root}/{name}") for flag, name in named.items()})
    return [arrays, ClipRetrievalSettings(import_clip_retrieval=f"{root}/clip")]


def test_imports_at_a_uri_make_the_same_stores(folder, tmp_path):
    before = set(Path(tempfile.gettempdir()).glob("xmrank-import-*"))
    for number, (here, there) in enumerate(zip(flags(folder), flags(REMOTE), strict=True)):
        stores = [
            embed(EmbedConfig(output=tmp_path / f"{number}{i}", dataset=kind)) for i, kind in enumerate((here, there))
        ]
        assert stores[0].fingerprint == stores[1].fingerprint
    assert set(Path(tempfile.gettempdir()).glob("xmrank-import-*")) == before


def test_one_of_them_may_be_local(folder, tmp_path):
    here, there = flags(folder)[0], flags(REMOTE)[0]
    mixed = embed(EmbedConfig(output=tmp_path / "mixed", dataset=replace(there, import_ids=here.import_ids)))
    assert mixed.counts == {"images": 2, "captions": 10}


def test_what_is_not_there_is_named_with_its_flag(folder, tmp_path):
    files = replace(flags(REMOTE)[0], import_texts=Path(f"{REMOTE}/no.npy"))
    with pytest.raises(DataError, match=r"^memory://imports/no.npy: no such file or folder \(--import-texts\)$"):
        embed(EmbedConfig(output=tmp_path / "store", dataset=files))
    with pytest.raises(DataError, match=r"^memory://nothing: no such file or folder \(--import-clip-retrieval\)$"):
        embed(
            EmbedConfig(
                output=tmp_path / "store", dataset=ClipRetrievalSettings(import_clip_retrieval="memory://nothing")
            )
        )


def test_an_unknown_kind_of_uri_is_one_line(tmp_path):
    settings = ClipRetrievalSettings(import_clip_retrieval="nosuch://host")
    with pytest.raises(DataError, match=r"^nosuch://host: cannot be read: ") as caught:
        embed(EmbedConfig(output=tmp_path / "store", dataset=settings))
    assert "\n" not in str(caught.value)
