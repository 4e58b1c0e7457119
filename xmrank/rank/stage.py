"""The ranking stage: a gallery is ranked for new queries, by the first stage and then a trained ranker."""

import tempfile
from pathlib import Path

from xmrank.config.common import semantic
from xmrank.config.rank import RankConfig
from xmrank.config.register import AUTO_NAME, model_prefix
from xmrank.embed.store import EmbeddingStore
from xmrank.rank.checks import check_request, direction_of_queries, direction_of_ranker, encoder_arguments
from xmrank.rank.queries import read_queries
from xmrank.rank.results import RESULTS, SIDES, STEPS
from xmrank.rank.trained_rankers import (
    ALIAS,
    GAIN,
    MODEL_URI,
    locate_ranker,
    ranker_fingerprint,
    read_registered_tags,
)
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.train.checkpoint_json import read_about

STAGE = "rank"


def rank(config: RankConfig) -> Manifest:
    """Rank the gallery for every query, and write the page where ``--page`` is set.

    Batches that an interrupted run finished are kept; results that are there already only get their page.

    Raises:
        ConfigError: flags that do not fit each other, the queries or the gallery.
        DataError: no queries, no such ranker, or one that was trained on embeddings of another encoder.
    """
    if config.queries is None:
        raise ConfigError("--queries: expected a text file, a table or a folder of images")
    store = EmbeddingStore.open(resolve(config.embeddings))
    output = resolve(config.output)
    with tempfile.TemporaryDirectory() as downloads:
        # The direction decides which column of a table is meant, so it is needed before the queries.
        wanted = config.direction or direction_of_ranker(config)
        queries = read_queries(resolve(config.queries), config.column, wanted, config.id_column)
        direction = direction_of_queries(queries, wanted)
        source = config.ranker or f"{MODEL_URI}{model_prefix(AUTO_NAME, store.dataset)}-{direction}@{ALIAS}"
        ranker = locate_ranker(source, direction, Path(downloads))
        check_request(config, store, read_about(ranker), queries, direction, source)
        encoder = encoder_arguments(store, config) if queries.kind != "embedding" else {}
        # The ranker counts by its content, so that a registered copy gives the same results.
        inputs = {"embeddings": store.fingerprint, "queries": queries.fingerprint}
        inputs["ranker"] = ranker_fingerprint(ranker)
        settings = {**semantic(config), "direction": direction}
        stage = StageDirectory.open(output, STAGE, config=settings, inputs=inputs, overwrite=config.overwrite)
        manifest = stage.done
        if manifest is None:
            # PyTorch, open_clip and Ray take seconds to import; what is wrong is known before.
            from xmrank.rank.ranking import rank_all

            manifest = rank_all(stage, config, store, queries, ranker, encoder)
        print(describe_ranker(source, ranker))
    print(summarise_ranking(manifest, output))
    if config.page:
        # Templates and pictures are loaded only where a page is wanted.
        from xmrank.rank.results_page import write_page

        write_page(config, manifest, output)
    return manifest


def describe_ranker(source: str, ranker: Path) -> str:
    """One line: which ranker ranks, and how it did where that is known."""
    about = read_about(ranker)
    line = f"rank: {about['ranker']} trained with {about['loss']}, seed {about['seed']}, from {source}"
    gain = read_registered_tags(source).get(GAIN) if source.startswith(MODEL_URI) else None
    return f"{line}; test {gain}" if gain else line


def summarise_ranking(manifest: Manifest, output: Path) -> str:
    """One line: how many queries were ranked, how fast, and where the results are."""
    counts, settings = manifest.counts, manifest.settings
    items = SIDES[settings["direction"]][1]
    left = f" ({len(manifest.left_out)} could not be read)" if manifest.left_out else ""
    steps = ", ".join(f"{name} {settings['milliseconds_per_query'][name]:g}" for name in STEPS)
    return (
        f"rank: {counts['queries']} queries{left}, the first stage's {counts['top_n']} of {counts['gallery']} {items} "
        f"re-ranked in {settings['seconds']:g} s (milliseconds for each query: {steps}) in {output / RESULTS}"
    )
