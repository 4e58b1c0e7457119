"""The evaluation of one method in one direction: its per-query metrics, rankings, TREC files and times."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from xmrank.config.common import Direction
from xmrank.config.evaluate import TrecFiles
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.list_paths import lists_path
from xmrank.protocols.galleries import make_galleries, make_list_protocol, make_tops, measure_gallery
from xmrank.protocols.query_tables import make_metrics_table, make_rankings_table, summarise_metrics
from xmrank.protocols.recall_at_k import recall_curve
from xmrank.protocols.reported import reported_images, reported_split
from xmrank.protocols.scorer import DirectionProtocols, MethodResult, RankedGallery, Scorer
from xmrank.protocols.table_parts import side_ids
from xmrank.protocols.trec_writing import query_names, trec_path, write_qrels, write_run
from xmrank.runtime.files import write_json, write_table
from xmrank.runtime.pieces import record_piece

PARTS = ("metrics", "rankings", "timing", "curves", "summary")
"""The part files of a task; the last one is written last."""


@dataclass(frozen=True)
class EvaluationTask:
    """The evaluation of one method in one direction.

    Attributes:
        name: begins the names of its part files; a ranker's is its trial's name.
        scorer: the method.
        embeddings, lists: folders of the stages before.
        work: folder of its part files.
        top_n, galleries, trec: as configured.
        trec_folder: takes the TREC files of all tasks.
        with_qrels: whether it also writes the qrels; one task of each direction is enough.
        family: tasks of one family have work in common, and are run one after another.
    """

    name: str
    direction: Direction
    scorer: Scorer
    embeddings: Path
    lists: Path
    work: Path
    top_n: tuple[int, ...]
    galleries: tuple[str, ...]
    trec: TrecFiles
    trec_folder: Path
    with_qrels: bool = False
    family: str = ""

    def part_path(self, kind: str) -> Path:
        """The path of a part file, of one of ``PARTS``."""
        return self.work / f"{self.name}.{kind}"

    def is_done(self) -> bool:
        """Whether all part files are there."""
        return all(self.part_path(kind).exists() for kind in PARTS)


def evaluate_method(task: EvaluationTask) -> None:
    """Evaluate one method and write its part files."""
    protocols = open_protocols(task.embeddings, task.lists, task.direction, task.top_n, task.galleries)
    if task.with_qrels and task.trec != "none":
        write_protocol_qrels(task, protocols)
    write_parts(task, protocols.store, task.scorer.measure(protocols))


@lru_cache(maxsize=2)  # one worker evaluates many methods, of both directions in turn
def open_protocols(
    embeddings: Path, lists: Path, direction: Direction, top_n: tuple[int, ...], galleries: tuple[str, ...]
) -> DirectionProtocols:
    """Open the store and make the protocols of one direction.

    Raises:
        DataError: no finished store or no lists there.
    """
    store, images = EmbeddingStore.open(embeddings, verify=False), reported_images(lists)
    mined = make_list_protocol(CandidateLists.read(lists_path(lists, direction, "test"), verify=False), direction)
    searches = [
        RankedGallery(gallery, measure_gallery(store, gallery), make_tops(store, gallery, top_n))
        for gallery in make_galleries(store, images, direction, galleries)
    ]
    return DirectionProtocols(store, direction, reported_split(lists), images, top_n, mined, searches)


def write_parts(task: EvaluationTask, store: EmbeddingStore, results: Iterable[MethodResult]) -> None:
    """Write a method's per-query metrics, rankings and TREC runs, and last its summary."""
    ids = side_ids(store, task.direction)
    # A scorer yields one protocol at a time, so that only its tables are kept and not its lists.
    metrics, rankings, summary, timing, curves = [], [], [], [], []
    for result in results:
        key, lists = result.key, result.protocol.lists
        query_ids = ids[0].take(lists.queries).to_pylist()
        metrics.append(make_metrics_table(key, query_ids, result.metrics, result.protocol.positives))
        summary += summarise_metrics(key, result.metrics)
        if result.timing:
            timing.append({**key, "items": lists.longest, "queries": len(lists), **result.timing})
        # The oracle has metrics but no ranking.
        if result.scores is not None:
            curves.append({**key, **recall_curve(result.protocol, result.scores)})
            rankings.append(make_rankings_table(key, result.protocol, result.scores, ids))
            if task.trec != "none":
                path = trec_path(task.trec_folder / task.direction, key["protocol"], task.name, task.trec)
                write_run(path, query_names(ids[0], lists.queries), lists.lengths, rankings[-1])
    write_joined(task.part_path("metrics"), metrics)
    write_joined(task.part_path("rankings"), rankings)
    write_json(task.part_path("timing"), timing)
    write_json(task.part_path("curves"), curves)
    # Last: a task whose summary is there is done.
    write_json(task.part_path("summary"), summary)
    record_piece(task.work, task.name, map(task.part_path, PARTS))


def write_joined(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write tables one after another as one part file."""
    # Every table has dictionaries of its own; a parquet file needs one a column.
    write_table(path, pa.concat_tables(tables).unify_dictionaries())


def write_protocol_qrels(task: EvaluationTask, protocols: DirectionProtocols) -> None:
    """Write the qrels of every protocol of a direction."""
    assert task.trec != "none"
    ids = side_ids(protocols.store, task.direction)
    lists = protocols.lists.lists
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    relevant = lists.labels > 0
    qrels = [(protocols.lists.name, lists.queries, (owner[relevant], lists.candidates[relevant]))]
    for search in protocols.searches:
        # A top N has the qrels of its gallery: a relevant item beyond N still counts as relevant.
        pairs = search.gallery.relevant_pairs()
        qrels += [(name, search.gallery.queries, pairs) for name in search.protocol_names()]
    for name, queries, pairs in qrels:
        path = trec_path(task.trec_folder / task.direction, name, "qrels", task.trec)
        write_qrels(path, query_names(ids[0], queries), pairs, ids[1])
