"""Every kind of input by its name."""

import json
import shutil
from pathlib import Path
from typing import Any

import readers_samples as samples

from mutations.input_kind import InputKind
from mutations.stage_outputs import STAGE_OUTPUTS
from mutations.user_inputs import (
    BEST,
    BEST_OF_BASELINES,
    PRESETS,
    RUN_LINES,
    TREC_LINES,
    read_arrays,
    read_best_of_baselines,
    read_best_of_sets,
    read_best_of_train,
    read_imported,
    read_pairs,
    read_preset,
    read_query_file,
    read_set,
    write_annotations,
    write_class_files,
    write_clip_retrieval,
    write_described_tar,
    write_embeddings,
    write_hdf5_features,
    write_image_folder,
    write_labelled_table,
    write_lines,
    write_listed_features,
    write_matlab_features,
    write_npy_features,
    write_parquet_of_paths,
    write_pickled_features,
    write_query_table,
)
from xmrank.datasets.reader_settings import ClipRetrievalSettings, CsvSettings, HuggingFaceSettings, WebDatasetSettings
from xmrank.protocols.trec_reading import read_qrels, read_run
from xmrank.supervised.guarded_reading import read_guarded
from xmrank.supervised.stores import read_annotations


def make_pairs_kind(name: str, make: Any, read: Any, files: str, *also: str) -> InputKind:
    """A data set; messages may name its folder or pattern."""
    return InputKind(name, make, lambda folder: read_pairs(read(folder)), files, also=also)


def karpathy_of(folder: Path) -> samples.KarpathySettings:
    return samples.KarpathySettings(annotations=folder / "all.json", images=folder / "pictures")


def coco_of(folder: Path) -> samples.CocoSettings:
    return samples.CocoSettings(annotations=folder / "captions_*.json", images=folder / "pictures")


def table_of(folder: Path, split_field: str = "split") -> CsvSettings:
    return CsvSettings(annotations=folder / "all.csv", images=folder / "pictures", split_field=split_field)


def pictures_of(folder: Path) -> samples.FolderSettings:
    return samples.FolderSettings(images=folder / "pictures")


def hugging_of(folder: Path) -> HuggingFaceSettings:
    return HuggingFaceSettings(images=folder)


def read_clip_retrieval(folder: Path) -> Any:
    """The store of ``write_clip_retrieval``."""
    return read_imported(ClipRetrievalSettings(import_clip_retrieval=folder))


def make_query_kind(column: str) -> InputKind:
    """A parquet file of queries."""
    return InputKind(
        f"queries-{column}",
        lambda folder: write_query_table(folder, column),
        lambda folder: read_query_file(folder / "queries.parquet"),
    )


def make_text_kind(kind: str, name: str, lines: list[str], read: Any) -> InputKind:
    """A text file of some lines."""
    return InputKind(kind, lambda folder: write_lines(folder / name, lines), lambda folder: read(folder / name))


def make_preset_kind(kind: str, name: str, job: str) -> InputKind:
    """One of our own presets; messages may name its settings as flags."""
    return InputKind(
        kind,
        lambda folder: shutil.copy(PRESETS / name, folder),
        lambda folder: read_preset(folder / name, job),
        also=("--", "learning_rate", "ranker."),
    )


def make_best_kind(kind: str, best: Any, read: Any) -> InputKind:
    """What a search writes for ``--best``."""
    return InputKind(kind, lambda folder: (folder / "best.json").write_text(json.dumps(best)), read)


DATA_SETS = [
    make_pairs_kind("karpathy", samples.karpathy, karpathy_of, "all.json"),
    make_pairs_kind("coco", samples.coco, coco_of, "captions_*.json", "captions_*.json"),
    make_pairs_kind("csv", samples.table, table_of, "all.csv"),
    make_pairs_kind("csv-tabs", write_labelled_table, lambda folder: table_of(folder, "fold"), "all.csv"),
    make_pairs_kind("folder", samples.folder_of_texts, pictures_of, "pictures/*/*.txt", "pictures"),
    make_pairs_kind("pictures", samples.folder_of_texts, pictures_of, "pictures/*/*.png", "pictures"),
    make_pairs_kind("webdataset", samples.webdataset, lambda f: WebDatasetSettings(images=f), "*.tar"),
    make_pairs_kind(
        "webdataset-json", write_described_tar, lambda f: WebDatasetSettings(images=f / "all.tar"), "*.tar"
    ),
    make_pairs_kind("parquet", samples.parquet, hugging_of, "data/*.parquet"),
    make_pairs_kind("parquet-paths", write_parquet_of_paths, hugging_of, "*.parquet"),
    make_pairs_kind("image-folder-csv", lambda f: write_image_folder(f, "csv"), hugging_of, "*/metadata.csv"),
    make_pairs_kind("image-folder-jsonl", lambda f: write_image_folder(f, "jsonl"), hugging_of, "*/metadata.jsonl"),
]
EMBEDDINGS = [
    InputKind("arrays", write_embeddings, read_arrays, "*"),
    InputKind("clip-retrieval", write_clip_retrieval, read_clip_retrieval, "*/*"),
]
FEATURES = [
    InputKind("features-npy", write_npy_features, read_set),
    InputKind("features-npz", write_listed_features, read_set, "features.npz"),
    InputKind("features-list", write_listed_features, read_set, "*.list"),
    InputKind("features-pickle", write_pickled_features, read_set),
    InputKind("features-mat", write_matlab_features, read_set, read_many=read_guarded),
    InputKind("features-hdf5", write_hdf5_features, read_set, read_many=read_guarded),
    InputKind("labels-coco", write_annotations, lambda f: read_annotations(["1", "2", "3"], f / "instances.json")),
    InputKind("labels-mirflickr", write_class_files, lambda f: read_annotations(["im1.jpg", "im2.jpg", "im3.jpg"], f)),
]
QUERIES = [
    make_text_kind("queries-lines", "queries.txt", ["a dog", "", "two cats", "ein Hünd"], read_query_file),
    *map(make_query_kind, ("text", "embedding", "image")),
    make_text_kind("qrels", "a.qrels", TREC_LINES, read_qrels),
    make_text_kind("qrels-gz", "a.qrels.gz", TREC_LINES, read_qrels),
    make_text_kind("run", "a.run", RUN_LINES, read_run),
]
SETTINGS = [
    make_preset_kind("preset", "strong.yaml", "experiment"),
    make_preset_kind("space", "grid12.yaml", "tune"),
    make_best_kind("best-train", BEST, read_best_of_train),
    make_best_kind("best-baselines", BEST_OF_BASELINES, read_best_of_baselines),
    make_best_kind("best-supervised", {"wikipedia-bow": {"settings": {"c": 0.5, "neighbours": 5}}}, read_best_of_sets),
]
USER_INPUTS = [*DATA_SETS, *EMBEDDINGS, *FEATURES, *QUERIES, *SETTINGS]
INPUTS = {kind.name: kind for kind in [*USER_INPUTS, *STAGE_OUTPUTS]}
