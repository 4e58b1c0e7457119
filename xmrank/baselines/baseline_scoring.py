"""A fitted baseline as a method of the evaluation: cosine of its projections, on lists and whole galleries."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xmrank.baselines.baseline_features import BaselineFeatures, multiply_rows, project_store
from xmrank.baselines.baseline_registry import BASELINES
from xmrank.baselines.towers import load_towers
from xmrank.config import BaselinesConfig
from xmrank.config.method_names import BASELINE, FIRST_STAGE
from xmrank.protocols.galleries import make_tops, measure_gallery
from xmrank.protocols.scorer import DirectionProtocols, MethodResult, Scorer


@dataclass(frozen=True)
class BaselineScorer(Scorer):
    """A baseline on the mined lists and on the whole galleries; it re-ranks nothing.

    Attributes:
        directory: the fitted baseline's folder.
        features: names the features that it projects.
    """

    directory: Path
    features: BaselinesConfig

    def measure(self, protocols: DirectionProtocols) -> Iterator[MethodResult]:
        """The baseline's results; it is loaded here.

        Raises:
            DataError: no baseline there, or features of other rows than the store's.
        """
        torch.set_num_threads(1)  # as in fitting, so that projections do not depend on the machine's cores
        towers, about = load_towers(self.directory)
        ranker = "" if about["method"] == FIRST_STAGE else BASELINE
        named = {"method": about["method"], "ranker": ranker, "seed": about["seed"]}
        store, lists = protocols.store, protocols.lists
        own = BASELINES[about["baseline"]].embeddings
        plain = BaselineFeatures(store.image, store.text, store.text)
        features = plain if own else BaselineFeatures.open(self.features, store)
        projections = project_store(towers, features, store, protocols.images)
        queries, items = np.repeat(lists.lists.queries, lists.lists.lengths), lists.lists.candidates
        images, captions = (queries, items) if protocols.direction == "i2t" else (items, queries)
        scores = multiply_rows(projections.image[images], projections.text[captions])
        yield MethodResult(protocols.table_key(lists.name, **named), lists, lists.measure(scores), scores, {})
        for search in protocols.searches:
            gallery = search.gallery
            (top,) = make_tops(projections, gallery, protocols.top_n)
            key = protocols.table_key(gallery.name, **named)
            yield MethodResult(key, top, measure_gallery(projections, gallery), top.lists.similarity, {})
