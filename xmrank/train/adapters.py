"""Learning a ranker's refinement: pairs of adapters, each from all images but its share, with an in-batch softmax."""

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
from xmrank.rankers.refinement import MATRICES, SIDES, Refinement, adapt
from xmrank.train.schedule import one_cycle

SHARES_STREAM = 0x5A4E5
"""Separates the division into shares from other draws under the same seed."""
PAIRS_STREAM = 0x9A125
"""Separates the order of the pairs."""
BANK_STREAM = 0xBA2C
"""Separates the choice of the bank."""
MEMORY_STREAM = 0x3E302
"""Separates the choice of the captions that are remembered."""
ASKS: dict[Direction, tuple[str, str]] = {"i2t": ("image", "text"), "t2i": ("text", "image")}
"""The sides of the query and of the candidates."""
Adapter = list[Tensor]
"""Matrices in the order of ``MATRICES``, each with a leading axis of members."""


@dataclass(frozen=True)
class TrainingPairs:
    """All pairs of an image and a caption that adapters learn from.

    Attributes:
        rows: rows of the images in the store, ascending.
        owner: place in ``rows`` of each caption's image, int64 [captions].
        image, text: embeddings of the images and of the captions, float32 [rows, d], [captions, d].
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


def divide(images: np.ndarray, members: int, seed: int) -> list[np.ndarray]:
    """The images' shares, one a member, each ascending; one share of all without members."""
    generator = np.random.default_rng([seed, SHARES_STREAM])
    return [np.sort(share) for share in np.array_split(generator.permutation(images), max(members, 1))]


def learn(
    refinement: Refinement,
    pairs: TrainingPairs,
    shares: Sequence[np.ndarray],
    config: RefinementSettings,
    direction: Direction,
    seed: int,
) -> None:
    """Fill a refinement: member k learns from the pairs of all images but those of ``shares[k]``.

    Every step tells each of ``config.pairs`` captions from the others by its image, and each image by its caption;
    captions of one image are no negatives of each other. The result follows from the seed.
    """
    torch.manual_seed(seed)
    adapters = {side: starting_adapter(refinement) for side in ("image", "text")}
    matrices = [matrix for adapter in adapters.values() for matrix in adapter]
    groups = [
        {"params": [m for m in matrices if m.shape[1] > 1], "weight_decay": config.weight_decay},
        {"params": [m for m in matrices if m.shape[1] == 1], "weight_decay": 0.0},  # biases
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    known = [np.flatnonzero(~np.isin(pairs.rows[pairs.owner], share)) for share in shares]
    size = min(config.pairs, *(len(captions) for captions in known))
    steps = config.epochs * (min(len(captions) for captions in known) // size)
    averaged = max(1, round(config.average * steps))
    kept = {side: [torch.zeros_like(matrix) for matrix in adapter] for side, adapter in adapters.items()}
    for step, captions in enumerate(batches(known, size, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = step_size(config, step, steps)
        optimizer.zero_grad(set_to_none=True)
        in_batch_loss(pairs, captions, adapters, config).backward()
        optimizer.step()
        if step >= steps - averaged:
            for side, adapter in adapters.items():
                for total, matrix in zip(kept[side], adapter, strict=True):
                    total.add_(matrix.detach(), alpha=1 / averaged)
    for part, side in zip(SIDES, ASKS[direction], strict=True):
        for name, matrix in zip(MATRICES, kept[side], strict=True):
            getattr(refinement, f"{part}_{name}").copy_(matrix)
    refinement.bank.copy_(bank(refinement, pairs, shares, direction, seed))
    if refinement.memory is not None:
        remember(refinement.memory, pairs, seed)


def step_size(config: RefinementSettings, step: int, steps: int) -> float:
    """One cycle; where matrices are averaged, which needs steps that go on, its rise and then its height."""
    if config.average:
        return config.learning_rate * min(1.0, (step + 1) / max(1, steps // 10))
    return one_cycle(config.learning_rate, step, steps)


def starting_adapter(refinement: Refinement) -> Adapter:
    """A as torch starts a linear layer, and B = 0, so that an adapter starts as the identity."""
    bound = refinement.bank.shape[2] ** -0.5
    blank = [getattr(refinement, f"query_{name}") for name in MATRICES]
    drawn = [torch.empty_like(b, device="cpu").uniform_(-bound, bound).to(b.device) for b in blank[:2]]
    return [matrix.requires_grad_() for matrix in (*drawn, *map(torch.zeros_like, blank[2:]))]


def batches(known: Sequence[np.ndarray], size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Captions of every member's batch, int64 [members, size]; a member meets all it knows before any a second time."""
    generators = [np.random.default_rng([seed, PAIRS_STREAM, member]) for member in range(len(known))]
    left = [np.empty(0, np.int64) for _ in known]
    for _ in range(steps):
        for member, (generator, captions) in enumerate(zip(generators, known, strict=True)):
            if len(left[member]) < size:
                left[member] = generator.permutation(captions)
        yield np.stack([captions[:size] for captions in left])
        left = [captions[size:] for captions in left]


def in_batch_loss(
    pairs: TrainingPairs, captions: np.ndarray, adapters: dict[str, Adapter], config: RefinementSettings
) -> Tensor:
    """The members' losses added up, each the mean of the cross-entropies of both directions over its batch.

    Args:
        pairs: with the embeddings.
        captions: which captions, int64 [members, batch].
        adapters: of both sides.
        config: scale, dropout and noise.
    """
    owner = torch.from_numpy(pairs.owner[captions]).to(pairs.image.device)
    at = torch.from_numpy(captions).to(pairs.image.device)
    sides = {"image": pairs.image[owner], "text": pairs.text[at]}
    if config.noise:
        spread = config.noise * pairs.image.shape[1] ** -0.5
        sides = {side: x + spread * torch.randn_like(x) for side, x in sides.items()}
    image, text = (adapt(x, adapters[side], config.dropout) for side, x in sides.items())
    logits = config.scale * image @ text.transpose(1, 2)
    siblings = (owner[:, :, None] == owner[:, None, :]) & ~torch.eye(len(owner[0]), dtype=torch.bool, device=at.device)
    logits = logits.masked_fill(siblings, -torch.inf)
    right = torch.arange(len(owner[0]), device=at.device).expand(len(owner), -1)
    both = F.cross_entropy(logits, right, reduction="none") + F.cross_entropy(logits.mT, right, reduction="none")
    return both.mean(1).sum() / 2


@torch.no_grad()
def bank(
    refinement: Refinement, pairs: TrainingPairs, shares: Sequence[np.ndarray], direction: Direction, seed: int
) -> Tensor:
    """Training queries of every member as it sees them, one an image, [members, size of the bank, d].

    Of a member's own share there are none: in the lists that it ranks in training as in those in use, a candidate's
    own query is never among them.
    """
    size = refinement.bank.shape[1]
    seen = []
    for member, share in enumerate(shares):
        captions = asking(pairs, share, size, np.random.default_rng([seed, BANK_STREAM, member]))
        seen.append(refinement.adapt_side("query", query_side(pairs, captions, direction))[member])
    return torch.stack(seen)


def asking(pairs: TrainingPairs, share: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Captions for a bank, one an image, of none of the share's images; int64 [size]."""
    captions = generator.permutation(np.flatnonzero(~np.isin(pairs.rows[pairs.owner], share)))
    one_each = np.unique(pairs.owner[captions], return_index=True)[1]
    return generator.permutation(captions[one_each])[:size]


def query_side(pairs: TrainingPairs, captions: np.ndarray, direction: Direction) -> Tensor:
    """The embeddings of captions, or of their images, whichever ask in a direction; [captions, d]."""
    side, places = (pairs.text, captions) if direction == "t2i" else (pairs.image, pairs.owner[captions])
    return side[torch.from_numpy(places).to(side.device)]


def remember(memory: KeyValueMemory, pairs: TrainingPairs, seed: int) -> None:
    """Fill a memory with the pairs, or with as many as it holds, drawn by seed; and its bank."""
    generator = np.random.default_rng([seed, MEMORY_STREAM])
    captions = np.sort(generator.permutation(len(pairs.owner))[: len(memory.captions)])
    memory.captions.copy_(pairs.text[torch.from_numpy(captions).to(pairs.text.device)])
    memory.images.copy_(pairs.image)
    memory.owner.copy_(torch.from_numpy(pairs.owner[captions]))
    fill_bank(memory, pairs, np.empty(0, np.int64), [seed, MEMORY_STREAM])


@torch.no_grad()
def fill_bank(memory: KeyValueMemory, pairs: TrainingPairs, share: np.ndarray, stream: Sequence[int]) -> None:
    """Training queries as a memory sees them, none of the share; a caption does not recall its own image."""
    captions = asking(pairs, share, len(memory.bank), np.random.default_rng(stream))
    if memory.text == "query":
        own = torch.from_numpy(pairs.owner[captions]).to(memory.owner.device)
        memory.bank.copy_(memory.retrieve_images(query_side(pairs, captions, "t2i"), own))
    else:
        memory.bank.copy_(query_side(pairs, captions, "i2t"))


def apart(refinement: Refinement, member: int, share: np.ndarray, pairs: TrainingPairs, seed: int) -> Refinement:
    """What ranks the training lists of a member's share: that member, and a memory that knows nothing of the share."""
    images = torch.from_numpy(np.flatnonzero(np.isin(pairs.rows, share)))
    made = refinement.take_member(member, images.to(refinement.bank.device))
    if made.memory is not None:
        fill_bank(made.memory, pairs, share, [seed, MEMORY_STREAM, member])
    return made
