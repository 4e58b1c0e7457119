"""Contrastive training of an open_clip model in plain torch; one process, or several that gather their features."""

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmrank.config import TrainEncoderConfig
from xmrank.datasets.scenes.training_pairs import DISTRIBUTIONS
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.runtime.files import atomic_path
from xmrank.runtime.storage import local_copy

_MAX_SCALE = math.log(100)


@dataclass(frozen=True)
class ScenePairs:
    """Images as a model takes them: pixels uint8 [N, 3, H, W] before normalisation, tokens int64 [N, 5, context]."""

    pixels: Tensor
    tokens: Tensor


def draw_pairs(encoder: Encoder, seed: int, split: str, numbers: range, distribution: str = "scenes") -> ScenePairs:
    """Draw these images of a distribution, with the pixels that JPEG files have, and tokenise their captions."""
    pixels, tokens = [], []
    mean, std = image_statistics(encoder)
    for number in numbers:
        # Through JPEG and the encoder's own preprocessing, as the embedding stage reads an image; kept as uint8,
        # a quarter of the memory.
        file = io.BytesIO()
        texts = DISTRIBUTIONS[distribution](seed, split, number, file)
        normal = encoder.preprocess(Image.open(file).convert("RGB"))
        pixels.append(((normal * std + mean) * 255).round().to(torch.uint8))
        tokens.append(encoder.tokenizer(list(texts)))
    return ScenePairs(torch.stack(pixels), torch.stack(tokens))


def image_statistics(encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that the encoder's preprocessing uses, [3, 1, 1] each."""
    image = encoder.preprocessing["image"]
    return torch.tensor(image["mean"]).view(3, 1, 1), torch.tensor(image["std"]).view(3, 1, 1)


class HeldOutScenes:
    """Scenes that are not trained on, to measure hit@1 with the model as it will be read back."""

    def __init__(self, config: TrainEncoderConfig, device: torch.device) -> None:
        self.encoder = load_encoder(config.model, "none", init_seed=config.seed, device=device)
        self.pairs = draw_pairs(self.encoder, config.data_seed, "val", range(config.held_out))

    def measure_hits(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """hit@1 in percent in both directions; the gallery is all held-out scenes."""
        self.encoder.model.load_state_dict(weights)
        images, texts = embed_pairs(self.encoder, self.pairs)
        return hit_at_1(images @ texts.T, self.pairs.tokens.shape[1])


def embed_pairs(encoder: Encoder, pairs: ScenePairs) -> tuple[Tensor, Tensor]:
    """Images and captions as unit vectors, float32 [N, d] and [N · 5, d], on the encoder's device."""
    mean, std = image_statistics(encoder)
    images = [encoder.encode_images((part / 255 - mean) / std) for part in pairs.pixels.split(256)]
    tokens = pairs.tokens.flatten(0, 1).to(encoder.device)
    texts = [encoder.encode_tokens(part) for part in tokens.split(1024)]
    return torch.cat(images), torch.cat(texts)


def hit_at_1(similarity: Tensor, captions: int) -> dict[str, float]:
    """Percentage of the queries whose most similar item is a positive.

    Args:
        similarity: [images, texts]; the texts of image i begin at i · captions.
        captions: how many captions an image has.
    """
    count = len(similarity)
    i2t = similarity.argmax(1) // captions == torch.arange(count, device=similarity.device)
    t2i = similarity.argmax(0) == torch.arange(count * captions, device=similarity.device) // captions
    return {"i2t_hit_at_1": 100 * i2t.float().mean().item(), "t2i_hit_at_1": 100 * t2i.float().mean().item()}


class Vocabulary:
    """The tokens of the training captions, and the model's embedding table reduced to them.

    A table of 49,408 rows would cost more in every step than the rest of the text side; these are some 200. Their
    order is kept, since open_clip finds the end of a text as its largest token.
    """

    def __init__(self, model: nn.Module, tokens: Tensor) -> None:
        self.holder: Any = getattr(model, "text", model)  # open_clip keeps the text side in the model or beside it
        self.table: Tensor = self.holder.token_embedding.weight.detach().clone()
        seen = torch.zeros(len(self.table), device=tokens.device).index_fill_(0, tokens.unique(), 1)
        # Every rank has other captions, and all must reduce the table to the same rows.
        if dist.is_initialized():
            dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        self.known = seen.nonzero().squeeze(1)
        self.holder.token_embedding = nn.Embedding.from_pretrained(self.table[self.known], freeze=False)
        self.key = f"{'text.' if self.holder is not model else ''}token_embedding.weight"

    def compact_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids as rows of the small table; all must be known."""
        return torch.searchsorted(self.known, tokens)

    def restore_table(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A model's state with the table of all tokens; those that were never seen are zero, so they add nothing."""
        table = torch.zeros_like(self.table)
        table[self.known] = state[self.key]
        return {**state, self.key: table}


class EncoderTowers(nn.Module):
    """Both sides of the model in one forward pass: DDP allows only one for each backward pass."""

    def __init__(self, model: open_clip.CLIP, autocast: bool) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images [B, 3, H, W], tokens [B, C, context] → float32 [B, d] and [C, B, d], and the scale."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            image = self.model.encode_image(images, normalize=True)
        # In float32: bfloat16 is slower on so few channels.
        text = self.model.encode_text(tokens.transpose(0, 1).flatten(0, 1), normalize=True)
        return image.float(), text.float().unflatten(0, (tokens.shape[1], -1)), self.model.logit_scale.exp()


class ContrastiveTraining:
    """The state of a run on one rank: model, optimizer, epochs done and their history."""

    def __init__(
        self, encoder: Encoder, train: ScenePairs, config: TrainEncoderConfig, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.config, self.rank = config, rank
        self.vocabulary = Vocabulary(encoder.model, train.tokens.to(encoder.device))
        self.pixels, self.tokens = train.pixels, self.vocabulary.compact_tokens(train.tokens.to(encoder.device))
        self.mean, self.std = (values.to(encoder.device) for values in image_statistics(encoder))
        self.model = encoder.model.train()
        # Convolutions are faster in this layout.
        self.model.visual.to(memory_format=torch.channels_last)
        towers = EncoderTowers(self.model, config.autocast)
        self.towers: nn.Module = DistributedDataParallel(towers) if world_size > 1 else towers
        self.optimizer = make_optimizer(self.model, config)
        self.loss = ClipLoss(rank=rank, world_size=world_size, local_loss=True, gather_with_grad=True)
        # The batch is divided among the ranks; the loss gathers their features.
        self.batch = config.batch_size // world_size
        self.steps = config.images // world_size // self.batch
        # One entry for each finished epoch; its length says where a resumed run continues.
        self.history: list[dict[str, float]] = []

    def train(self, checkpoint: Path, held_out: HeldOutScenes | None) -> None:
        """Train the missing epochs; rank 0, which alone has the held-out scenes, writes the checkpoint after each."""
        if checkpoint.exists():
            self.load_state(checkpoint)
        for epoch in range(len(self.history), self.config.epochs):
            loss = self.train_epoch(epoch)
            if held_out:
                self.history.append({"epoch": epoch + 1, "loss": loss} | held_out.measure_hits(self.copy_weights()))
                self.save_state(checkpoint)

    def train_epoch(self, epoch: int) -> float:
        """One pass over this rank's images; returns the mean loss. The draws follow from seed, epoch and rank."""
        rng = torch.Generator().manual_seed(hash((self.config.seed, epoch, self.rank)) % 2**63)
        order = torch.randperm(len(self.pixels), generator=rng)
        # On the device: reading the loss in every step would wait for the GPU.
        total = torch.zeros((), device=self.mean.device)
        self.model.train()
        for step in range(self.steps):
            rows = order[step * self.batch : (step + 1) * self.batch]
            # A function of the step alone, so that a resumed run continues the schedule.
            self.set_learning_rate(epoch * self.steps + step)
            images = self.augment_images(rows, rng)
            image, texts, scale = self.towers(images, self.draw_captions(rows, rng))
            # An image's features serve several captions: far more is learnt than from one, at little more cost.
            loss = torch.stack([self.loss(image, text, scale) for text in texts]).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            # CLIP's own limit: without it, training can diverge.
            self.model.logit_scale.data.clamp_(max=_MAX_SCALE)
            total += loss.detach()
        return float(total) / self.steps

    def draw_captions(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Tokens of as many captions of these images as a step uses, [B, captions, context]."""
        chosen = torch.randperm(self.tokens.shape[1], generator=rng)[: self.config.captions]
        return self.tokens[rows][:, chosen]

    def augment_images(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """The images of these rows, shifted together by a few pixels, normalised."""
        images = self.pixels[rows].to(self.mean.device).float() / 255
        shift = self.config.shift
        if shift:
            down, right = torch.randint(2 * shift + 1, (2,), generator=rng).tolist()
            height, width = images.shape[-2:]
            images = F.pad(images, (shift,) * 4, mode="replicate")[..., down : down + height, right : right + width]
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def set_learning_rate(self, step: int) -> None:
        """Linear warm-up, then a cosine to zero."""
        done = step / (self.steps * self.config.epochs)
        rise = (step + 1) / max(1.0, self.config.warmup * self.steps * self.config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * min(rise, 0.5 * (1 + math.cos(math.pi * done)))

    def copy_weights(self) -> dict[str, Tensor]:
        """The model's state as open_clip knows it, on the CPU, floats in half precision."""
        state = self.vocabulary.restore_table(self.model.state_dict())
        return {
            name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in state.items()
        }

    def save_state(self, checkpoint: Path) -> None:
        """Write all that the next epoch depends on."""
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in entries.items()}
        with atomic_path(checkpoint) as temporary:
            save_file(tensors, temporary, metadata={"history": json.dumps(self.history)})

    def load_state(self, checkpoint: Path) -> None:
        """Restore model, optimizer and history from a checkpoint."""
        model: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        self.history = read_history(checkpoint)
        with safe_open(local_copy(checkpoint), "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                kind, _, rest = name.partition(".")
                if kind == "model":
                    model[rest] = file.get_tensor(name)
                else:
                    index, _, entry = rest.partition(".")
                    moments.setdefault(int(index), {})[entry] = file.get_tensor(name)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for parameter, entries in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # fused AdamW expects them in the parameter's memory layout
                entries[name] = torch.empty_like(parameter).copy_(entries[name])


def make_optimizer(model: nn.Module, config: TrainEncoderConfig) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices and kernels, but not for embeddings and vectors."""
    parameters = list(model.named_parameters())
    # Decay would pull embeddings of rare tokens to zero.
    decayed = [p for name, p in parameters if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in parameters if not (p.ndim >= 2 and "embedding" not in name)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def read_history(checkpoint: Path) -> list[dict[str, float]]:
    """Loss and held-out hit@1 of every finished epoch, from a checkpoint; empty where there is none."""
    if not checkpoint.exists():
        return []
    with safe_open(local_copy(checkpoint), "pt") as file:
        return list(json.loads(file.metadata()["history"]))
