"""A trained ranker, and the refined similarity that it starts from, as methods of the evaluation."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from xmrank.config.method_names import REFINED
from xmrank.evaluate.list_scoring import refine_similarity, score_lists
from xmrank.evaluate.query_timing import time_queries
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols.galleries import ListProtocol
from xmrank.protocols.scorer import DirectionProtocols, MethodResult, Scorer
from xmrank.rankers import Ranker
from xmrank.rankers.refinement import Refinement
from xmrank.runtime.device import own_device
from xmrank.train.checkpoint import read_ranker
from xmrank.train.list_data import ListData
from xmrank.train.projected_tokens import project_list_data
from xmrank.train.refined_gallery import RefinedGallery
from xmrank.train.training_data import refine_rows


@dataclass(frozen=True)
class RankerScorer(Scorer):
    """A ranker on the mined lists and on every top.

    Attributes:
        directory: the ranker's folder.
        timed: whether its milliseconds a query are measured too.
    """

    directory: Path
    timed: bool = True

    def measure(self, protocols: DirectionProtocols) -> Iterator[MethodResult]:
        """The ranker's results; it is loaded here.

        Raises:
            DataError: no ranker there, or weights that do not fit its parameters.
        """
        device = prepare_process()
        ranker, about = read_ranker(self.directory, device)
        lists = join_lists(protocols)
        data = ListData.of(
            lists, protocols.store, protocols.direction, device, tokens=ranker.hyperparameters.reads_tokens
        )
        shared = refine_protocols(ranker, protocols, data)
        # For all lists at once: a candidate of several protocols is projected once.
        data = project_list_data(ranker, data)
        # A ranker never ranks a whole gallery, only its tops.
        for protocol in protocols.list_ranked():
            own = replace(data, lists=shared.refine_lists(protocol) if shared else protocol.lists)
            scores = score_lists(ranker, own)
            known = replace(own, refined=shared.gallery if shared else None)
            timing = time_queries(ranker, known) if self.timed else {}
            key = protocols.table_key(
                protocol.name, method=about["loss"], loss=about["loss"], ranker=about["ranker"], seed=about["seed"]
            )
            yield MethodResult(key, protocol, protocol.measure(scores), scores, timing)


@dataclass(frozen=True)
class RefinedScorer(Scorer):
    """The refined similarity of a ranker by itself: what adapters, hubness and memory do, without a ranking loss.

    All rankers of one seed and direction share it.

    Attributes:
        directory: of one of these rankers.
    """

    directory: Path

    def measure(self, protocols: DirectionProtocols) -> Iterator[MethodResult]:
        """The results of ranking by the refined similarity; the ranker is loaded here.

        Raises:
            DataError: no ranker there, or weights that do not fit its parameters.
        """
        device = prepare_process()
        ranker, about = read_ranker(self.directory, device)
        data = ListData.of(join_lists(protocols), protocols.store, protocols.direction, device)
        shared = refine_protocols(ranker, protocols, data)
        assert shared is not None  # without a refinement there is no such method
        for protocol in protocols.list_ranked():
            scores = shared.refine_lists(protocol).similarity
            key = protocols.table_key(protocol.name, method=REFINED, seed=about["seed"])
            yield MethodResult(key, protocol, protocol.measure(scores), scores, {})


def prepare_process() -> torch.device:
    """Set torch up for the scoring of lists; returns the device."""
    torch.set_num_threads(1)  # as in training, so that scores do not depend on the machine's cores
    return own_device()


def join_lists(protocols: DirectionProtocols) -> CandidateLists:
    """The lists of all protocols that rankers rank."""
    return CandidateLists.join([protocol.lists for protocol in protocols.list_ranked()])


@dataclass(frozen=True)
class SharedRefinement:
    """What the rankers of one seed and direction have in common.

    Attributes:
        gallery: the candidates of all protocols, refined; it refines queries as they come.
        similarity: name of a protocol → the refined similarity of its lists, flat: float32 [items].
    """

    gallery: RefinedGallery
    similarity: dict[str, np.ndarray]

    def refine_lists(self, protocol: ListProtocol) -> CandidateLists:
        """A protocol's lists with the refined similarity."""
        return replace(protocol.lists, similarity=self.similarity[protocol.name])


def refine_protocols(ranker: Ranker, protocols: DirectionProtocols, data: ListData) -> SharedRefinement | None:
    """What the ranker's refinement gives on all protocols; None if it has none.

    The rankers of a seed share their refinement, and a process evaluates them one after another: what the last
    refinement gave is kept with the protocols.

    Args:
        data: the lists of all protocols.
    """
    if ranker.refinement is None:
        return None
    key = hash_refinement(ranker.refinement)
    if key not in protocols.shared:
        protocols.shared.clear()
        # Every row once: queries too are known here.
        known = RefinedGallery(ranker.refinement, refine_rows(ranker.refinement, data), queries_known=True)
        lists = {protocol.name: protocol.lists for protocol in protocols.list_ranked()}
        similarity = {name: refine_similarity(replace(data, lists=own, refined=known)) for name, own in lists.items()}
        protocols.shared[key] = SharedRefinement(replace(known, queries_known=False), similarity)
    found: SharedRefinement = protocols.shared[key]
    return found


def hash_refinement(refinement: Refinement) -> str:
    """The sha256 of a refinement's parameters and buffers."""
    digest = hashlib.sha256(repr(refinement.describe()).encode())
    for value in refinement.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
