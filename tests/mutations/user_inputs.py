"""The inputs that users bring: data sets, embeddings, features, queries, relevance judgements, presets."""

import gzip
import json
import pickle
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import readers_samples as samples
from scipy.io import savemat

from xmrank.baselines.baseline_registry import check_baselines, settings_of
from xmrank.config import BaselinesConfig, SupervisedConfig, TrainConfig, TuneConfig
from xmrank.config.jobs import JOBS
from xmrank.config.parsing import parse_config
from xmrank.datasets.locations import read_bytes
from xmrank.datasets.reader_settings import (
    ArraySettings,
    ClipRetrievalSettings,
)
from xmrank.datasets.readers import read_dataset
from xmrank.embed.clip_retrieval import import_clip_retrieval
from xmrank.embed.decoding import decode_image
from xmrank.embed.importing import import_embeddings
from xmrank.embed.store import EmbeddingStore
from xmrank.rank.queries import read_queries
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below
from xmrank.supervised.layouts import read_features
from xmrank.supervised.stage import read_best_settings as read_best_of_supervised
from xmrank.train.trial_settings import config_of, read_best
from xmrank.train.trials import Trial
from xmrank.tune.ranker_target import read_loss_space

ROOT = Path(__file__).parents[2]
GENERATOR_SEED = 5
TREC_LINES = [f"q{query} 0 item%20{item} {item % 2}" for query in range(3) for item in range(4)]
RUN_LINES = [f"q{query} Q0 item{item} {item + 1} {1 / (item + 1)} own" for query in range(3) for item in range(4)]


def read_pairs(settings: Any) -> Any:
    """The tables of a data set, what was left out, and the pictures, as far as they can be decoded."""
    dataset = read_dataset(settings, max_broken=0.5)
    pictures = []
    for location in dataset.images["location"].to_pylist():
        try:
            pictures.append(decode_image(read_bytes(below(dataset.root, location))).tobytes())
        except DataError as error:
            pictures.append(str(error))
    return [dataset.images, dataset.captions, dataset.left_out, dataset.containers, pictures]


def write_labelled_table(folder: Path) -> None:
    """A table with ids, labels and several columns of captions, separated by tabs."""
    samples.write_pictures(folder)
    rows = ["image\tid\tlabel\tcaption_0\tcaption_1\tfold"]
    for number, (split, name, _, texts) in enumerate(samples.ITEMS):
        rows.append("\t".join([f"{split}/{name}.png", name, str(number), *texts, split]))
    (folder / "all.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_parquet_of_paths(folder: Path) -> None:
    """Parquet with the images' paths, ids, labels and lists of captions."""
    samples.write_pictures(folder)
    columns = {
        "image_path": [f"pictures/{split}/{name}.png" for split, name, *_ in samples.ITEMS],
        "image_id": [name for _, name, *_ in samples.ITEMS],
        "label": [[1, 2], [], [3]],
        "captions": [texts for *_, texts in samples.ITEMS],
        "split": [split for split, *_ in samples.ITEMS],
    }
    pq.write_table(pa.table(columns), folder / "all.parquet")


def write_image_folder(folder: Path, suffix: str) -> None:
    """A folder of images in each split, with metadata beside them."""
    for split, name, content, texts in samples.ITEMS:
        inside = folder / split
        inside.mkdir(exist_ok=True)
        (inside / f"{name}.png").write_bytes(content)
        with (inside / f"metadata.{suffix}").open("a", encoding="utf-8") as file:
            if suffix == "jsonl":
                file.write(json.dumps({"file_name": f"{name}.png", "text": texts, "label": len(name)}) + "\n")
            else:
                if not file.tell():
                    file.write("file_name,text\n")
                file.write("".join('{}.png,"{}"\n'.format(name, text.replace('"', '""')) for text in texts))


def write_described_tar(folder: Path) -> None:
    """A tar whose samples have JSON with captions, split and label, and one with a class."""
    samples_of_split = [
        (name, content, {"caption": texts, "split": split, "label": 3}) for split, name, content, texts in samples.ITEMS
    ]
    with samples.tarfile.open(folder / "all.tar", "w") as tar:
        for name, content, about in samples_of_split:
            samples.add(tar, f"{name}.png", content)
            samples.add(tar, f"{name}.json", json.dumps(about).encode())
            samples.add(tar, f"{name}.cls", b"7")


def make_arrays() -> dict[str, np.ndarray]:
    """Features of 20 training and 6 test items, classes 1 to 3."""
    generator = np.random.default_rng(GENERATOR_SEED)
    arrays = {}
    for part, count in (("train", 20), ("test", 6)):
        arrays |= {f"{part}_img": generator.normal(size=(count, 5)), f"{part}_txt": generator.normal(size=(count, 4))}
        arrays[f"{part}_lab"] = np.arange(count)[:, None] % 3 + 1
    return arrays


def write_npy_features(folder: Path) -> None:
    """A file for each array."""
    for name, array in make_arrays().items():
        np.save(folder / f"{name}.npy", array)


def write_pickled_features(folder: Path) -> None:
    """One file for each part, as CLIP4CMR has them."""
    arrays = make_arrays()
    for part in ("train", "test"):
        content = {kind: arrays[f"{part}_{key}"] for kind, key in (("image", "img"), ("text", "txt"), ("label", "lab"))}
        with (folder / f"clip_{part}.pkl").open("wb") as file:
            pickle.dump(content, file)


def write_listed_features(folder: Path) -> None:
    """Arrays, and the Wikipedia set's lists of classes."""
    arrays = make_arrays()
    keys = {"train_img": "I_tr", "train_txt": "T_tr", "test_img": "I_te", "test_txt": "T_te"}
    np.savez(folder / "features.npz", **{key: arrays[name] for name, key in keys.items()})
    for part in ("train", "test"):
        lines = [f"text{i}\timage{i}\t{number}\n" for i, number in enumerate(arrays[f"{part}_lab"][:, 0])]
        (folder / f"{part}set_txt_img_cat.list").write_text("".join(lines))
    (folder / "categories.list").write_text("art\nbiology\ngeography\n")


def write_matlab_features(folder: Path) -> None:
    """All arrays in one file."""
    savemat(folder / "features.mat", make_arrays(), do_compression=True)


def write_hdf5_features(folder: Path) -> None:
    """All arrays in one file, one of them in packed chunks."""
    with h5py.File(folder / "features.h5", "w") as file:
        for name, array in make_arrays().items():
            file.create_dataset(name, data=array, compression="gzip" if "img" in name else None)


def read_set(folder: Path) -> Any:
    """The labelled set in a folder."""
    return asdict(read_features("own", "", folder, seed=0))


def write_embeddings(folder: Path) -> None:
    """Embeddings of four images and eight captions, and their ids."""
    generator = np.random.default_rng(GENERATOR_SEED)
    np.save(folder / "I.npy", generator.normal(size=(4, 3)).astype(np.float32))
    np.save(folder / "T.npy", generator.normal(size=(8, 3)).astype(np.float32))
    ids = {"image_ids": list("abcd"), "caption_ids": list(range(8)), "split": ["train", "train", "val", "test"]}
    (folder / "ids.json").write_text(json.dumps({**ids, "caption_image": [0, 0, 1, 1, 2, 2, 3, 3]}))


def read_imported(settings: ArraySettings | ClipRetrievalSettings) -> Any:
    """The store that an import makes."""
    run = import_embeddings if isinstance(settings, ArraySettings) else import_clip_retrieval
    with tempfile.TemporaryDirectory() as output:
        run(settings, Path(output) / "store")
        store = EmbeddingStore.open(Path(output) / "store")
        return [np.array(store.image), np.array(store.text), store.images, store.captions]


def read_arrays(folder: Path) -> Any:
    """The store of ``write_embeddings``."""
    files = {"import_images": folder / "I.npy", "import_texts": folder / "T.npy", "import_ids": folder / "ids.json"}
    return read_imported(ArraySettings(**files))


def write_clip_retrieval(folder: Path) -> None:
    """Two parts of three rows."""
    generator = np.random.default_rng(GENERATOR_SEED)
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir()
    for part in range(2):
        np.save(folder / f"img_emb/img_emb_{part}.npy", generator.normal(size=(3, 4)).astype(np.float16))
        np.save(folder / f"text_emb/text_emb_{part}.npy", generator.normal(size=(3, 4)).astype(np.float16))
        columns = {"image_path": [f"{part}{row}.jpg" for row in range(3)], "caption": ["a", "b", "c"]}
        pq.write_table(
            pa.table({**columns, "split": ["train", "val", "test"]}), folder / f"metadata/metadata_{part}.parquet"
        )


def write_annotations(folder: Path) -> None:
    """COCO's instances of three images."""
    images, categories = [{"id": n} for n in (1, 2, 3)], [{"id": n, "name": f"c{n}"} for n in (1, 2)]
    annotations = [
        {"image_id": 1, "category_id": 2},
        {"image_id": 2, "category_id": 1},
        {"image_id": 3, "category_id": 1},
    ]
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )


def write_class_files(folder: Path) -> None:
    """MIRFlickr's lists of image numbers."""
    for name, numbers in (("sky", "1\n2\n"), ("sea", "3\n")):
        (folder / f"{name}.txt").write_text(numbers)


def write_query_table(folder: Path, column: str) -> None:
    """Queries as parquet: texts, embeddings, or paths of images."""
    columns = {
        "text": ["a dog", "a cat", "two"],
        "embedding": [[1.0, 0.5], [0.2, 1.0], [0.1, 0.1]],
        "image": list("abc"),
    }
    pq.write_table(pa.table({"id": ["x", "y", "z"], column: columns[column]}), folder / "queries.parquet")


def read_query_file(path: Path) -> Any:
    """The queries in a file."""
    queries = read_queries(path, None, None)
    return [
        queries.ids,
        queries.shown,
        [item.replace(str(path.parent), "") for item in queries.items],
        queries.embeddings,
    ]


def write_lines(path: Path, lines: list[str]) -> None:
    """A text file, packed if its name says so."""
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


PRESETS = ROOT / "xmrank" / "presets"


def read_preset(path: Path, job: str) -> Any:
    """The configuration of a job with a preset, and the points of its space."""
    flags = ["--preset", str(path)]
    flags += ["--embeddings", "e", "--lists", "l", "--output", "o"] if job != "experiment" else []
    config = parse_config(JOBS[job].load_config(), flags, name=job, presets=path.parent)
    if isinstance(config, TuneConfig):
        return [repr(config), [read_loss_space(config, loss) for loss in config.train.losses]]
    return repr(config)


BEST = {
    "t2i": {
        "listnet": {"learning_rate": 0.001, "ranker.width": 32, "ranker.dropout": 0.1},
        "neural_ndcg": {"batch_size": 16, "loss.temperature": 0.5},
    },
    "i2t": {"ranknet": {"weight_decay": 0.1}},
}


BEST_OF_BASELINES = {
    "vsepp": {"baseline": "vsepp", "settings": {"margin": 0.3, "epochs": 3}},
    "dcca": {"baseline": "dcca", "settings": {"learning_rate": 0.01}},
}


def read_best_of_train(folder: Path) -> Any:
    """The settings of each trial with ``--best``."""
    config = TrainConfig(best=folder / "best.json", losses=("listnet", "neural_ndcg", "ranknet"))
    best = read_best(config)
    return [
        repr(config_of(Trial(d, loss, 0), replace(config, best=None), best))
        for d in ("i2t", "t2i")
        for loss in config.losses
    ]


def read_best_of_baselines(folder: Path) -> Any:
    """The settings of two baselines with ``--best``."""
    config = BaselinesConfig(best=folder / "best.json", baselines=("vsepp", "dcca"))
    check_baselines(config)
    return [repr(settings_of(config, name, name)) for name in config.baselines]


def read_best_of_sets(folder: Path) -> Any:
    """The settings of lcm with ``--best``."""
    return read_best_of_supervised(SupervisedConfig(best=folder / "best.json"), ["wikipedia-bow"])
