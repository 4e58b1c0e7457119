"""Word detection: what the encoders of a token ranker learn from captions before any list is seen.

Source: Fang et al., "From captions to visual concepts and back", CVPR 2015, section 3: an image's captions say which
words it has, not where; a word counts by its best region (multiple-instance learning).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from xmrank.config import DetectionSettings, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_store import TokenArray
from xmrank.mine.pool import captions_of
from xmrank.rankers.layers import dropout_draws
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import atomic_path, sha256_json
from xmrank.runtime.storage import local_copy
from xmrank.train.detection_state import DetectionState
from xmrank.train.schedule import one_cycle
from xmrank.train.token_sides import gather_side

ORDER_STREAM = 0xDE7EC7
"""Separates the order of the images from other draws under the same seed."""
PARTS = ("word_encoder.", "region_encoder.")
"""The parts of a ranker that are learned."""
FEWEST_IMAGES = 3
"""A word of fewer training images is left out: nothing could be learned of it."""
MOST_WORDS = 10_000
"""Words that are learned, the most frequent ones."""
HASH_BLOCK = 2**16
"""Tokens hashed at once."""


@dataclass(frozen=True)
class WordDetection:
    """What word detection is learned from, and the folder that keeps what was learned.

    Attributes:
        label: of the store, for messages.
        regions, texts: the tokens of all images and captions.
        images: rows of the training images, int64 ascending.
        captions: rows of their captions, int64.
        owner: the image of each caption, from 0, int64.
        settings: of the training.
        folder: a file for each seed and shape of the encoders.
    """

    label: str
    regions: TokenArray
    texts: TokenArray
    images: np.ndarray
    captions: np.ndarray
    owner: np.ndarray
    settings: DetectionSettings
    folder: Path

    @classmethod
    def of(cls, store: EmbeddingStore, images: np.ndarray, config: TrainConfig, folder: Path) -> "WordDetection | None":
        """The word detection of a training on some images; None if the configuration has none."""
        if not config.detect.epochs:
            return None
        captions, owner = captions_of(store, images)
        regions, texts = store.tokens("image"), store.tokens("text")
        return cls(store.label, regions, texts, images, captions, owner, config.detect, folder)

    def fill_encoders(self, ranker: TokenRanker, seed: int) -> None:
        """Put what a seed's encoders learn into a ranker; it is learned once and then read from the folder.

        Raises:
            ConfigError: texts in which no word comes back.
        """
        path = self.folder / f"{self.name_result(ranker, seed)}.safetensors"
        if not path.exists():
            words = self.read_words()
            # Not the weights of this ranker, which depend on its loss: trials share the result.
            ranker.renew_encoders(seed)
            state = path.with_name(f"{path.stem}.state")
            fit_word_detection(ranker, self.regions, self.images, words, self.settings, seed, state)
            weights = {name: value for name, value in ranker.state_dict().items() if name.startswith(PARTS)}
            with atomic_path(path) as temporary:
                save_file({name: value.cpu().contiguous() for name, value in weights.items()}, temporary)
            state.unlink(missing_ok=True)
        ranker.load_state_dict(load_file(local_copy(path)), strict=False)

    def read_words(self) -> "CaptionWords":
        """The words of the training captions.

        Raises:
            ConfigError: texts in which no word comes back.
        """
        words = CaptionWords.of(self.texts, self.captions, self.owner, len(self.images))
        if not len(words):
            raise ConfigError(
                f"--detect.epochs {self.settings.epochs}: no text token of {self.label} is that of {FEWEST_IMAGES} "
                "training images or more, so that no word can be learned; expected a store of word embeddings "
                "(--text-token-layer: as many as the text encoder has layers)"
            )
        return words

    def name_result(self, ranker: TokenRanker, seed: int) -> str:
        """The name of a seed's result: another for encoders of other shapes and other settings."""
        shapes = {name: list(value.shape) for name, value in ranker.state_dict().items() if name.startswith(PARTS)}
        # Of either direction: both have the same encoders.
        dropout = ranker.hyperparameters.token_dropout
        return f"seed{seed}-{sha256_json([shapes, dropout, vars(self.settings)])[:16]}"


@dataclass(frozen=True)
class CaptionWords:
    """Which words the captions of some images have.

    Attributes:
        tokens: of the words, each once, float32 [words, width].
        starts: int64 [images + 1]; the words of image i are ``words[starts[i]:starts[i + 1]]``.
        words: numbers of words, int64.
    """

    tokens: Tensor
    starts: np.ndarray
    words: np.ndarray

    @classmethod
    def of(cls, texts: TokenArray, captions: np.ndarray, owner: np.ndarray, images: int) -> "CaptionWords":
        """The words of some captions: tokens that are equal in all numbers are one word.

        Args:
            texts: the tokens of all captions.
            captions: rows of the captions.
            owner: the image of each, from 0 to ``images`` − 1.
            images: how many there are.
        """
        counts = texts.counts[captions]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(texts.offsets[captions], counts) + within
        _, first, word = np.unique(hash_tokens(texts, rows), return_index=True, return_inverse=True)
        # Each word of an image once.
        pairs = np.unique(np.repeat(owner, counts) * len(first) + word)
        image, word = np.divmod(pairs, max(len(first), 1))
        frequency = np.bincount(word, minlength=len(first))
        kept = np.argsort(-frequency, kind="stable")[:MOST_WORDS]
        kept = np.sort(kept[frequency[kept] >= FEWEST_IMAGES])
        number = np.full(len(first), -1)
        number[kept] = np.arange(len(kept))
        image, word = image[number[word] >= 0], number[word[number[word] >= 0]]
        starts = np.searchsorted(image, np.arange(images + 1))
        return cls(torch.from_numpy(read_tokens(texts, rows[first[kept]])), starts, word)

    def __len__(self) -> int:
        """The number of words."""
        return len(self.tokens)

    @property
    def log_prior(self) -> Tensor:
        """The logarithm of the share of images that have each word, float32 [words]."""
        share = np.bincount(self.words, minlength=len(self)) / (len(self.starts) - 1)
        return torch.from_numpy(np.log(share)).float()

    def targets(self, images: np.ndarray) -> Tensor:
        """1 where an image has a word, float32 [images, words]."""
        targets = torch.zeros(len(images), len(self))
        for row, image in enumerate(images):
            targets[row, self.words[self.starts[image] : self.starts[image + 1]]] = 1
        return targets


def hash_tokens(tokens: TokenArray, rows: np.ndarray) -> np.ndarray:
    """A number for each token, equal for equal tokens, uint64 [rows]."""
    factors = np.random.default_rng(0).integers(1, 2**63, tokens.width + 1, np.uint64) | np.uint64(1)
    integers = np.dtype(f"u{tokens.dtype.itemsize}")
    hashed = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), HASH_BLOCK):
        part = rows[start : start + HASH_BLOCK]
        # The bits of the numbers; sums modulo 2⁶⁴.
        hashed[start : start + len(part)] = (
            np.ascontiguousarray(tokens.values[part]).view(integers).astype(np.uint64) * factors[:-1]
        ).sum(1, dtype=np.uint64)
        if tokens.scales is not None:
            hashed[start : start + len(part)] += tokens.scales[part].view(np.uint32).astype(np.uint64) * factors[-1]
    return hashed


def read_tokens(tokens: TokenArray, rows: np.ndarray) -> np.ndarray:
    """The tokens of these rows of the array, float32 [rows, width]."""
    values = np.asarray(tokens.values[rows], np.float32)
    return values if tokens.scales is None else values * tokens.scales[rows, None]


def fit_word_detection(
    ranker: TokenRanker,
    regions: TokenArray,
    images: np.ndarray,
    words: CaptionWords,
    settings: DetectionSettings,
    seed: int,
    state: Path,
) -> None:
    """Train a ranker's encoders to tell the words of an image's captions, by the binary cross-entropy of every word.

    The prior probability of a word is learned beside it, by the squared error of its logarithm.

    Args:
        ranker: its encoders are changed in place.
        regions: the tokens of all images.
        images: rows of the training images, int64.
        words: of these images' captions.
        settings: of the training.
        seed: of the order of the images and of dropout.
        state: file that an interrupted call has left, and this one would leave.
    """
    device = next(ranker.parameters()).device
    tokens, log_prior = words.tokens.to(device), words.log_prior.to(device)
    optimizer = make_detection_optimizer(ranker, settings)
    batches = list(order_images(len(images), settings, seed))
    dropout = torch.Generator(device).manual_seed(seed)
    weights = {name: value for name, value in ranker.named_parameters() if name.startswith(PARTS)}
    kept = DetectionState(state, weights, optimizer, dropout)
    done = kept.load()
    ranker.train()
    for step, batch in enumerate(batches[done:], start=done):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(settings.learning_rate, step, len(batches))
        side = gather_side(regions, images[batch], device)
        with dropout_draws([dropout]):
            logits, prior = ranker.detect_words(side.values[side.index], tokens, side.mask[side.index])
        loss = F.binary_cross_entropy_with_logits(logits, words.targets(batch).to(device), reduction="none")
        optimizer.zero_grad(set_to_none=True)
        (loss.sum(1).mean() + (prior - log_prior).square().mean()).backward()
        optimizer.step()
        kept.save_sometimes(step + 1)


def make_detection_optimizer(ranker: TokenRanker, settings: DetectionSettings) -> torch.optim.Optimizer:
    """AdamW for the encoders; weight decay for matrices only."""
    parameters = [parameter for name, parameter in ranker.named_parameters() if name.startswith(PARTS)]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def order_images(count: int, settings: DetectionSettings, seed: int) -> Iterator[np.ndarray]:
    """The images of every step, by number; a rest that fills no batch is left out of its epoch."""
    generator = np.random.default_rng([seed, ORDER_STREAM])
    size = min(settings.batch_size, count)
    for _ in range(settings.epochs):
        order = generator.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
