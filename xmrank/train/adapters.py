"""Fits a ranker's refinement by cross-fitting: every member on the pairs of all folds but one, by in-batch softmax."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmrank.config import Direction, RefinementSettings
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.pool import captions_of
from xmrank.rankers.key_value_memory import KeyValueMemory
from xmrank.rankers.refinement import MATRICES, SIDES, Refinement, apply_adapters
from xmrank.train.schedule import one_cycle

FOLDS_STREAM = 0x5A4E5
"""Separates the division into folds from other draws under the same seed."""
PAIRS_STREAM = 0x9A125
"""Separates the order of the pairs."""
BANK_STREAM = 0xBA2C
"""Separates the choice of the bank."""
MEMORY_STREAM = 0x3E302
"""Separates the choice of the captions that a memory keeps."""
QUERY_AND_CANDIDATE: dict[Direction, tuple[str, str]] = {"i2t": ("image", "text"), "t2i": ("text", "image")}
"""The sides of the store that queries and candidates are from."""
Adapter = list[Tensor]
"""Matrices in the order of ``MATRICES``, each with a leading axis of members."""


@dataclass(frozen=True)
class TrainingPairs:
    """All pairs of an image and a caption that adapters are trained on.

    Attributes:
        rows: rows of the images in the store, int64 [images], ascending.
        owner: index in ``rows`` of each caption's image, int64 [captions].
        image: embeddings of the images, float32 [images, d].
        text: embeddings of the captions, float32 [captions, d].
    """

    rows: np.ndarray
    owner: np.ndarray
    image: Tensor
    text: Tensor

    @classmethod
    def of(cls, store: EmbeddingStore, images: np.ndarray, device: torch.device) -> "TrainingPairs":
        """The pairs of some images; rows ascending."""
        captions, owner = captions_of(store, images)
        image, text = store.gather("image", images), store.gather("text", captions)
        return cls(images, owner, torch.from_numpy(image).to(device), torch.from_numpy(text).to(device))

    def captions_outside(self, fold: np.ndarray) -> np.ndarray:
        """The captions whose image is not in a fold, given by image rows; int64, ascending."""
        return np.flatnonzero(~np.isin(self.rows[self.owner], fold))


def split_into_folds(images: np.ndarray, members: int, seed: int) -> list[np.ndarray]:
    """The images in one fold for each member, each ascending; a single fold of all images without members."""
    generator = np.random.default_rng([seed, FOLDS_STREAM])
    return [np.sort(fold) for fold in np.array_split(generator.permutation(images), max(members, 1))]


def fit_refinement(
    refinement: Refinement,
    pairs: TrainingPairs,
    folds: Sequence[np.ndarray],
    config: RefinementSettings,
    direction: Direction,
    seed: int,
) -> None:
    """Fill a refinement: member k is trained on the pairs of all images but those of ``folds[k]``.

    Every step takes ``config.pairs`` pairs for each member: each caption is told from the others by its image, and
    each image from the others by its caption. The result follows from the seed.
    """
    torch.manual_seed(seed)
    adapters = {side: init_adapter(refinement) for side in ("image", "text")}
    optimizer = make_adapter_optimizer(adapters, config)

    # All members take the same number of steps of the same size: those that the member with the fewest pairs can take.
    captions = [pairs.captions_outside(fold) for fold in folds]
    fewest = min(len(rows) for rows in captions)
    size = min(config.pairs, fewest)
    steps = config.epochs * (fewest // size)
    averaged_steps = max(1, round(config.average * steps))
    averages = {side: [torch.zeros_like(matrix) for matrix in adapter] for side, adapter in adapters.items()}

    for step, batch in enumerate(draw_batches(captions, size, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = adapter_step_size(config, step, steps)
        optimizer.zero_grad(set_to_none=True)
        in_batch_loss(pairs, batch, adapters, config).backward()
        optimizer.step()
        # What is kept are the matrices averaged over the last steps, or those of the last step.
        if step >= steps - averaged_steps:
            for side, adapter in adapters.items():
                for total, matrix in zip(averages[side], adapter, strict=True):
                    total.add_(matrix.detach(), alpha=1 / averaged_steps)

    for part, side in zip(SIDES, QUERY_AND_CANDIDATE[direction], strict=True):
        for name, matrix in zip(MATRICES, averages[side], strict=True):
            getattr(refinement, f"{part}_{name}").copy_(matrix)
    refinement.bank.copy_(compute_banks(refinement, pairs, folds, direction, seed))
    if refinement.memory is not None:
        fill_memory(refinement.memory, pairs, seed)


def make_adapter_optimizer(adapters: dict[str, Adapter], config: RefinementSettings) -> torch.optim.Optimizer:
    """AdamW; biases, the matrices of one row, are not decayed."""
    matrices = [matrix for adapter in adapters.values() for matrix in adapter]
    groups = [
        {"params": [m for m in matrices if m.shape[1] > 1], "weight_decay": config.weight_decay},
        {"params": [m for m in matrices if m.shape[1] == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True)


def adapter_step_size(config: RefinementSettings, step: int, steps: int) -> float:
    """The step size: one cycle, or where steps are averaged, which must not shrink, a rise and then a constant."""
    if config.average:
        return config.learning_rate * min(1.0, (step + 1) / max(1, steps // 10))
    return one_cycle(config.learning_rate, step, steps)


def init_adapter(refinement: Refinement) -> Adapter:
    """A as torch initialises a linear layer, and B = 0, so that an adapter starts as the identity."""
    bound = refinement.bank.shape[2] ** -0.5
    # Query and candidate adapters have the same shapes.
    blank = [getattr(refinement, f"query_{name}") for name in MATRICES]
    # Drawn on the CPU, so that the result does not depend on the device.
    drawn = [torch.empty_like(b, device="cpu").uniform_(-bound, bound).to(b.device) for b in blank[:2]]
    return [matrix.requires_grad_() for matrix in (*drawn, *map(torch.zeros_like, blank[2:]))]


def draw_batches(captions: Sequence[np.ndarray], size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """The captions of every step, int64 [members, size].

    Args:
        captions: those that each member is trained on.
        size: captions of a step; each member sees all of its captions, but for a rest, before any a second time.
        steps: how many batches.
        seed: of the order.
    """
    generators = [np.random.default_rng([seed, PAIRS_STREAM, member]) for member in range(len(captions))]
    left = [np.empty(0, np.int64) for _ in captions]
    for _ in range(steps):
        # A member that has too few captions left for a batch starts another pass; the rest of the pass is dropped.
        for member, (generator, rows) in enumerate(zip(generators, captions, strict=True)):
            if len(left[member]) < size:
                left[member] = generator.permutation(rows)
        yield np.stack([rows[:size] for rows in left])
        left = [rows[size:] for rows in left]


def in_batch_loss(
    pairs: TrainingPairs, captions: np.ndarray, adapters: dict[str, Adapter], config: RefinementSettings
) -> Tensor:
    """The sum of the members' losses, each the mean of the cross-entropies of both directions over its batch.

    Args:
        pairs: with the embeddings.
        captions: of the batch, int64 [members, batch].
        adapters: of both sides.
        config: scale, dropout and noise.
    """
    owner = torch.from_numpy(pairs.owner[captions]).to(pairs.image.device)
    rows = torch.from_numpy(captions).to(pairs.image.device)
    sides = {"image": pairs.image[owner], "text": pairs.text[rows]}
    if config.noise:
        spread = config.noise * pairs.image.shape[1] ** -0.5
        sides = {side: x + spread * torch.randn_like(x) for side, x in sides.items()}
    image, text = (apply_adapters(x, adapters[side], config.dropout) for side, x in sides.items())
    logits = config.scale * image @ text.transpose(1, 2)

    # Captions of one image are no negatives of each other.
    size = len(owner[0])
    same_image = owner[:, :, None] == owner[:, None, :]
    siblings = same_image & ~torch.eye(size, dtype=torch.bool, device=rows.device)
    logits = logits.masked_fill(siblings, -torch.inf)

    # Pair i is on the diagonal: row i is image i among the captions, column i is caption i among the images.
    right = torch.arange(size, device=rows.device).expand(len(owner), -1)
    both = F.cross_entropy(logits, right, reduction="none") + F.cross_entropy(logits.mT, right, reduction="none")
    return both.mean(1).sum() / 2


@torch.no_grad()
def compute_banks(
    refinement: Refinement, pairs: TrainingPairs, folds: Sequence[np.ndarray], direction: Direction, seed: int
) -> Tensor:
    """Training queries of every member as it sees them, one an image, [members, size of the bank, d].

    None are of the member's own fold: in the lists that a member refines in training, as in those in use, a candidate
    never meets its own query in the bank.
    """
    size = refinement.bank.shape[1]
    banks = []
    for member, fold in enumerate(folds):
        captions = draw_bank_captions(pairs, fold, size, np.random.default_rng([seed, BANK_STREAM, member]))
        banks.append(refinement.adapt_side("query", query_embeddings(pairs, captions, direction))[member])
    return torch.stack(banks)


def draw_bank_captions(pairs: TrainingPairs, fold: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Captions for a bank, of different images, none of the fold; int64 [size]."""
    captions = generator.permutation(pairs.captions_outside(fold))
    # The first of each image in the random order.
    one_each = np.unique(pairs.owner[captions], return_index=True)[1]
    return generator.permutation(captions[one_each])[:size]


def query_embeddings(pairs: TrainingPairs, captions: np.ndarray, direction: Direction) -> Tensor:
    """The embeddings of captions (t2i) or of their images (i2t), [captions, d]."""
    side, rows = (pairs.text, captions) if direction == "t2i" else (pairs.image, pairs.owner[captions])
    return side[torch.from_numpy(rows).to(side.device)]


def fill_memory(memory: KeyValueMemory, pairs: TrainingPairs, seed: int) -> None:
    """Fill a key–value memory with the pairs, or with as many as it holds, drawn by seed; and its bank."""
    generator = np.random.default_rng([seed, MEMORY_STREAM])
    captions = np.sort(generator.permutation(len(pairs.owner))[: len(memory.captions)])
    memory.captions.copy_(pairs.text[torch.from_numpy(captions).to(pairs.text.device)])
    # All images stay: captions are drawn, and each refers to its image by position.
    memory.images.copy_(pairs.image)
    memory.owner.copy_(torch.from_numpy(pairs.owner[captions]))
    fill_memory_bank(memory, pairs, np.empty(0, np.int64), [seed, MEMORY_STREAM])


@torch.no_grad()
def fill_memory_bank(memory: KeyValueMemory, pairs: TrainingPairs, fold: np.ndarray, stream: Sequence[int]) -> None:
    """Fill the bank with training queries as the memory sees them, none of the fold."""
    captions = draw_bank_captions(pairs, fold, len(memory.bank), np.random.default_rng(stream))
    if memory.caption_side == "query":
        # A caption must not retrieve its own image from the memory: in use, no query is in it.
        own = torch.from_numpy(pairs.owner[captions]).to(memory.owner.device)
        memory.bank.copy_(memory.retrieve_images(query_embeddings(pairs, captions, "t2i"), own))
    else:
        memory.bank.copy_(query_embeddings(pairs, captions, "i2t"))


def make_fold_refinement(
    refinement: Refinement, member: int, fold: np.ndarray, pairs: TrainingPairs, seed: int
) -> Refinement:
    """The refinement of a fold's training lists: the member that was not trained on it, and a memory without it."""
    # The memory counts images by their position among the training images, not by their row in the store.
    images = torch.from_numpy(np.flatnonzero(np.isin(pairs.rows, fold)))
    made = refinement.take_member(member, images.to(refinement.bank.device))
    if made.memory is not None:
        fill_memory_bank(made.memory, pairs, fold, [seed, MEMORY_STREAM, member])
    return made
