"""What stages write and read: stores, lists, rankers, tables, manifests, plans, and what is kept beside."""

import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report.synthetic import World, make_run

from mutations.input_kind import InputKind
from mutations.user_inputs import write_embeddings
from xmrank.baselines.towers import ProjectionTowers, load_towers, save_towers
from xmrank.config import ReportConfig
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed.importing import import_embeddings
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.in_memory import mine_lists
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.mine.list_paths import lists_path, read_role_images
from xmrank.mine.mapped_lists import open_lists
from xmrank.protocols.reported import reported_images, reported_split
from xmrank.qrels.stage import rankings_of
from xmrank.rankers import ContextAwareParameters, build_ranker
from xmrank.report.captions import read_captions
from xmrank.report.inputs import open_inputs
from xmrank.report.kept_tables import keep_tables, read_kept_tables
from xmrank.report.result_tables import ComparedCell, ResultTable, TableCell, TableRow
from xmrank.report.stage import TABLES
from xmrank.report.table_making import read_seed_means
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.lock import LockHolder
from xmrank.runtime.manifest import read_manifest
from xmrank.runtime.pieces import record_piece
from xmrank.runtime.verification import read_outputs
from xmrank.tracking.delivery import list_journals
from xmrank.tracking.journal import Journal
from xmrank.tracking.run_tree import RunTree, read_run_ids
from xmrank.train.checkpoint import load_state, read_ranker, save_ranker, save_state
from xmrank.train.checkpoint_json import read_stack
from xmrank.train.run_journals import read_epochs
from xmrank.train.trials import Trial
from xmrank.tune.points import SearchFolder
from xmrank.tune.search_target import PointOutcome, SearchGroup, SearchPoint

PARAMETERS = ContextAwareParameters(width=8, layers=1, heads=2, feed_forward=8)
TRIAL = Trial("listnet", "t2i", 0)


def seal(folder: Path, name: str) -> None:
    """Finish a stage whose files are in a folder: with a plan, and with a manifest that has their hashes."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # A stage opens an empty directory only.
    shutil.rmtree(folder)
    stage = StageDirectory.open(folder, name, config={"seed": 0, "names": ["a", "b"]}, inputs={"embeddings": "1f" * 32})
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    settings = {"images_root": "/nothing", "dtype": "float32"}
    stage.finish(
        counts={"images": 2}, left_out=[{"image_id": "a", "reason": "broken", "captions": 1}], settings=settings
    )


def write_stage(folder: Path) -> None:
    """A finished stage with two files."""
    (folder / "a.txt").write_text("first\n")
    (folder / "b").mkdir()
    (folder / "b" / "c.txt").write_text("second\n")
    seal(folder, "embed")


def read_stage_manifest(folder: Path) -> Any:
    """What a manifest says that a fingerprint is made of."""
    manifest = read_manifest(folder, "embed")
    hashes = {name: entry["sha256"] for name, entry in manifest.outputs.items()}
    return [manifest.fingerprint, manifest.stage, manifest.config, manifest.inputs, hashes]


def open_stage(folder: Path) -> Any:
    """The stage's directory, opened by the stage itself."""
    inputs = {"embeddings": "1f" * 32}
    stage = StageDirectory.open(folder, "embed", config={"seed": 0, "names": ["a", "b"]}, inputs=inputs)
    return [stage.done and stage.done.fingerprint, sorted(path.name for path in folder.rglob("*.txt"))]


def open_finished_stage(folder: Path) -> Any:
    """As ``open_stage``. A stage that is made anew trusts nothing of what was damaged."""
    opened = open_stage(folder)
    if opened[0] is None:
        raise DataError(f"{folder}: is made anew")
    return opened


def write_started_stage(folder: Path) -> None:
    """A stage that was planned and not finished."""
    write_stage(folder)
    (folder / "manifest.json").unlink()


def write_lock(folder: Path) -> None:
    """A stage whose process was killed, on this machine."""
    write_started_stage(folder)
    holder = replace(LockHolder.of_this_process(), started="long ago", key="0" * 32)
    write_json(folder / "run.lock", asdict(holder))


def write_piece(folder: Path) -> None:
    """An unfinished stage that has finished a piece."""
    write_started_stage(folder)
    record_piece(folder / "work", "first", [folder / "a.txt", folder / "b" / "c.txt"])


def write_store(folder: Path) -> None:
    """A store of four images with two captions each."""
    with tempfile.TemporaryDirectory() as other:
        arrays = Path(other)
        write_embeddings(arrays)
        files = {"import_images": arrays / "I.npy", "import_texts": arrays / "T.npy", "import_ids": arrays / "ids.json"}
        import_embeddings(ArraySettings(**files), folder)


def read_store(folder: Path) -> Any:
    """All that a store holds."""
    store = EmbeddingStore.open(folder)
    return [np.array(store.image), np.array(store.text), store.images, store.captions, store.encoder, store.fingerprint]


def write_lists(folder: Path) -> None:
    """The output of the mining stage, as far as it is read again."""
    generator = np.random.default_rng(0)
    image = generator.normal(size=(24, 4)).astype(np.float32)
    splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
    store = EmbeddingStore.from_arrays(image, np.repeat(image, 5, 0) + 0.1, splits=splits)
    for role, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        mine_lists(store, direction="t2i", split=split, random_candidates=5, hard_negatives=3).write(
            lists_path(folder, "t2i", role)
        )
    roles = {"train": "train", "validation": "val", "test": "test"}
    write_json(
        folder / "splits.json", {r: {"split": s, "images": store.image_rows(s).tolist()} for r, s in roles.items()}
    )
    seal(folder, MINE)


def read_lists(folder: Path) -> Any:
    """Lists, roles and the reported split, as training and evaluation open them."""
    made = open_output(folder, MINE)
    paths = [lists_path(folder, "t2i", role) for role in ("train", "validation", "test")]
    lists = [vars(CandidateLists.read(path)) for path in paths]
    lists += [vars(open_lists(path, folder / "cache")) for path in paths]
    roles = [read_role_images(folder, role) for role in ("train", "validation", "test")]
    return [made, lists, roles, reported_split(folder), reported_images(folder)]


def open_output(folder: Path, stage: str) -> str:
    """The fingerprint of a stage's output, verified as the stages do it."""
    return read_outputs(folder, stage).fingerprint


def write_ranker(folder: Path) -> None:
    """A trained ranker."""
    torch.manual_seed(0)
    ranker = build_ranker(PARAMETERS, dimensions=4)
    about = {"loss": "listnet", "direction": "t2i", "seed": 3, "best_epoch": 2, "encoder": {"name": "imported"}}
    save_ranker(folder, ranker, ranker.state_dict(), about)


def read_trained(folder: Path) -> Any:
    """A ranker's weights and what its JSON says."""
    ranker, about = read_ranker(folder)
    return [{name: value.numpy() for name, value in ranker.state_dict().items()}, about]


def write_state(folder: Path) -> None:
    """The state of a training."""
    torch.manual_seed(0)
    weights = build_ranker(PARAMETERS, dimensions=4).state_dict()
    meta = {"epochs": [{"epoch": 1, "step": 5, "train_loss": 0.5, "validation_mean": 0.25}], "bad_epochs": 0}
    save_state(folder / "state.safetensors", weights, weights, {"exp_avg": torch.ones(3)}, meta, stack=["a", "b"])


def read_state(folder: Path) -> Any:
    """What a training goes on from."""
    path, model = folder / "state.safetensors", build_ranker(PARAMETERS, dimensions=4)
    best, moments, meta = load_state(path, model)
    # The order of the names says nothing.
    named = [sorted(part.items()) for part in (model.state_dict(), best, moments)]
    parts = [{name: value.numpy() for name, value in part} for part in named]
    return [parts, meta, read_stack(path)]


def write_baseline(folder: Path) -> None:
    """A fitted baseline."""
    torch.manual_seed(0)
    layers = [("standardise", {"width": 4}), ("linear", {"in_features": 4, "out_features": 3})]
    save_towers(folder, ProjectionTowers(layers, layers), {"baseline": "cca", "seed": 0})


def read_baseline(folder: Path) -> Any:
    """A baseline's weights and what its JSON says."""
    towers, about = load_towers(folder)
    return [{name: value.numpy() for name, value in towers.state_dict().items()}, about]


def write_run(folder: Path) -> None:
    """Embeddings, rankers, an evaluation and a search, with made-up figures."""
    make_run(
        folder, World(images=4, seeds=(0,), losses=("listnet", "ranknet"), epochs=2, pictures=False, searched=True)
    )


def read_run_outputs(folder: Path) -> Any:
    """What a report is made from."""
    config = ReportConfig(
        embeddings=folder / "embeddings",
        rankers=folder / "rankers",
        evaluation=folder / "evaluation",
        search=folder / "tuned" / "search",
        output=folder / "report",
    )
    inputs = open_inputs(config)
    captions = read_captions(inputs.embeddings_directory, inputs.split)
    means = read_seed_means(inputs.metrics, inputs.split)
    rankings = [vars(ranked) for ranked in rankings_of(inputs.rankings)]
    return [
        inputs.fingerprints,
        inputs.encoder,
        list(map(vars, inputs.trials)),
        vars(captions),
        means.to_csv(),
        rankings,
    ]


def write_report_tables(folder: Path) -> None:
    """A finished report with one table."""
    test = ComparedCell(-0.1, 0.2, 0.5, 1.0, 3, 2, 1, 2)
    cells = {"hit@1": TableCell((0.25, 0.5), 40, 0, 0.125, True, test, refined_difference=0.1, refined_test=test)}
    rows = (TableRow("cosine", "", "First stage", {"hit@1": TableCell((0.25,), 40, 0)}),)
    keep_tables(
        folder / TABLES, [ResultTable("top-20", "i2t", (*rows, TableRow("ranknet", "linear", "RankNet", cells)))]
    )
    seal(folder, "report")


def read_report_tables(folder: Path) -> Any:
    """The tables as a finished report prints them."""
    read_outputs(folder, "report")
    return list(map(asdict, read_kept_tables(folder / TABLES)))


def write_tracking(folder: Path) -> None:
    """The run ids that a stage keeps."""
    write_json(folder / "tracking.json", {"parent": "0" * 32, "listnet-t2i-seed0": "1" * 32, "notes": {"a": "b"}})


def read_tracking(folder: Path) -> Any:
    """The run ids, read in both ways."""
    tree = RunTree(folder, "train")
    return [read_run_ids(folder), tree.ids, tree.notes]


def write_journal(folder: Path) -> None:
    """A journal, half delivered."""
    journal = Journal(folder, TRIAL.name)
    for step in range(4):
        journal.add("0" * 32, metrics={"train/loss": 1 / (step + 1)}, step=step)
        if step == 1:
            journal.mark.write_text(str(journal.path.stat().st_size))
    journal.add("0" * 32, tags={"kept_start": "true"}, artifacts=[folder / "x"], failed=False)
    for path in journal.path.parent.glob("*.jsonl"):
        path.write_text(path.read_text().replace(str(folder), "folder"))


def read_journal(folder: Path) -> Any:
    """The records of a journal, and what is left of it."""
    (journal,) = list_journals(folder) or [Journal(folder, TRIAL.name)]
    left = [record for record, _ in journal.read_records(journal.delivered)]
    return [journal.records_of("0" * 32), left, journal.is_delivered]


def write_trial(folder: Path) -> None:
    """The history of a finished trial in a training that goes on."""
    write_json(
        TRIAL.directory(folder) / "history.json",
        {"loss": "listnet", "best_epoch": 1, "epochs": [{"epoch": 1, "step": 2}]},
    )


GROUP = SearchGroup("listnet t2i", {"loss": "listnet", "direction": "t2i"}, {})
POINT = SearchPoint(GROUP, {"learning_rate": 0.1}, "listnet-t2i-0123456789")


def write_point(folder: Path) -> None:
    """The result of a point of a search that goes on."""
    SearchFolder(folder).write_outcome(POINT, PointOutcome(0.5, 2, 3, figures={"hit@1": 0.25}))


def read_point(folder: Path) -> Any:
    """A point's result, read in both ways."""
    search = SearchFolder(folder)
    result = search.read_result(POINT)
    return [result and vars(result), list(map(vars, search.list_results(GROUP)))]


STAGE_OUTPUTS = [
    InputKind("manifest", write_stage, read_stage_manifest, "manifest.json", is_covered=True),
    InputKind("plan", write_started_stage, open_stage, "plan.json", is_covered=True, writes=True),
    InputKind("finished-stage", write_stage, open_finished_stage, "*.json", is_covered=True, writes=True),
    InputKind("lock", write_lock, open_stage, "run.lock", writes=True),
    InputKind("pieces", write_piece, open_stage, "work/*/*", writes=True),
    InputKind("store", write_store, read_store, "[ite]*", is_covered=True),
    InputKind("lists", write_lists, read_lists, "*.parquet", is_covered=True),
    InputKind("roles", write_lists, read_lists, "splits.json", is_covered=True),
    InputKind("ranker", write_ranker, read_trained, is_covered=True),
    InputKind("state", write_state, read_state, is_covered=True),
    InputKind("baseline", write_baseline, read_baseline),
    InputKind("run-tables", write_run, read_run_outputs, "*/*.parquet", is_covered=True),
    InputKind("run-json", write_run, read_run_outputs, "*/**/*.json", is_covered=True),
    InputKind("report-tables", write_report_tables, read_report_tables, "tables.json", is_covered=True),
    InputKind("tracking", write_tracking, read_tracking),
    InputKind("journal", write_journal, read_journal, "journal/*"),
    InputKind("history", write_trial, lambda folder: read_epochs(TRIAL.directory(folder)), "trials/*/*"),
    InputKind("point", write_point, read_point, "*/*"),
]  # fmt: skip
