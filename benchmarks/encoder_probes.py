"""What an encoder knows of scenes: recall of the full gallery, and probes for the classes of the objects.

    python benchmarks/encoder_probes.py                               # bundled, test split of the default seed
    python benchmarks/encoder_probes.py --seed 1000003 --split val    # scenes to choose settings by
    python benchmarks/encoder_probes.py --pretrained runs/encoder/xmrank-tiny.safetensors

A probe is a small network on frozen features: a 3 × 3 convolution with 64 channels, and a classifier of 20 classes at
every position. A class of an image counts as strongly as at its best position. On the embedding, which has one
position, it is a perceptron with 64 hidden values. Probes are fitted on the training split of the same seed. Prints one
JSON line; recall and average precision (the mean over classes; chance is the share of images that have the class) are
in percent.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from xmrank.datasets.scenes.generate import LABEL_NAMES, compose_scene
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.train_encoder.contrastive import ScenePairs, draw_pairs, image_statistics

LAYERS = ("layer2", "layer3", "layer4")
CUTOFFS = (1, 5, 10)
CAPTIONS = 5
HIDDEN = 64
PROBE_STEPS = 300


def measure_recall(images: Tensor, texts: Tensor) -> dict[str, list[float]]:
    """hit@1, @5 and @10 of the full gallery in percent, by direction; image i has captions 5·i to 5·i + 4."""
    similarity = images @ texts.T
    owner = torch.arange(len(texts)) // CAPTIONS
    positive = owner[None, :] == torch.arange(len(images))[:, None]
    # The rank of a query's best positive: 1 + how many items are above it.
    best_caption = similarity.masked_fill(~positive, -2).amax(1, keepdim=True)
    i2t = 1 + (similarity > best_caption).sum(1)
    t2i = 1 + (similarity > similarity[owner, torch.arange(len(texts))]).sum(0)
    return {
        name: [round(100 * (rank <= cutoff).float().mean().item(), 1) for cutoff in CUTOFFS]
        for name, rank in (("i2t", i2t), ("t2i", t2i))
    }


@contextmanager
def keep_maps(visual: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the output of every stage of a ResNet, [B, channels, H, W], while images are encoded."""
    kept: dict[str, list[Tensor]] = {name: [] for name in LAYERS if hasattr(visual, name)}
    handles = [
        getattr(visual, name).register_forward_hook(lambda _m, _i, output, maps=maps: maps.append(output.float()))
        for name, maps in kept.items()
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def encode_scenes(encoder: Encoder, pairs: ScenePairs) -> dict[str, Tensor]:
    """Features by name, [N, channels, H, W]; the embedding has one position."""
    mean, std = image_statistics(encoder)
    with keep_maps(encoder.model.visual) as maps:
        vectors = torch.cat([encoder.encode_images((part / 255 - mean) / std) for part in pairs.pixels.split(256)])
    return {"embedding": vectors[:, :, None, None], **{name: torch.cat(parts) for name, parts in maps.items()}}


def encode_captions(encoder: Encoder, pairs: ScenePairs) -> Tensor:
    """All captions, in the order of their images, as unit vectors."""
    return torch.cat([encoder.encode_tokens(part) for part in pairs.tokens.flatten(0, 1).split(1024)])


def fit_probe(features: Tensor, labels: Tensor) -> nn.Module:
    """The network, fitted with AdamW to the classes of the images, [N, classes]."""
    torch.manual_seed(0)
    hidden = nn.Conv2d(features.shape[1], HIDDEN, 3, padding=1)
    # Most classes are absent, so the network starts from that.
    output = nn.Conv2d(HIDDEN, labels.shape[1], 1)
    nn.init.constant_(output.bias, -2.0)
    probe = nn.Sequential(nn.BatchNorm2d(features.shape[1], affine=False), hidden, nn.GELU(), nn.Dropout(0.2), output)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=0.003, weight_decay=0.1)
    rng = torch.Generator().manual_seed(0)
    for _ in range(PROBE_STEPS):
        rows = torch.randint(len(features), (128,), generator=rng)
        loss = F.binary_cross_entropy_with_logits(probe(features[rows]).amax((2, 3)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe.eval()


@torch.no_grad()
def measure_precision(probe: nn.Module, features: Tensor, labels: Tensor) -> dict[str, float]:
    """Average precision in percent: mean over all classes, over digits, and over shapes."""
    scores = torch.cat([probe(part).amax((2, 3)) for part in features.split(256)]).numpy()
    values: NDArray[np.float64] = np.array(average_precision_score(labels.numpy(), scores, average=None))
    parts = {"all": values, "digits": values[:10], "shapes": values[10:]}
    return {name: round(100 * float(part.mean()), 1) for name, part in parts.items()}


def mark_classes(seed: int, split: str, count: int) -> Tensor:
    """1 where a scene has the class, float32 [scenes, classes]."""
    labels = torch.zeros(count, len(LABEL_NAMES))
    for number in range(count):
        labels[number, compose_scene(seed, split, number).labels] = 1
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="xmrank-tiny")
    parser.add_argument("--pretrained")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, nargs="+", default=[400, 1000], help="sizes of the gallery")
    parser.add_argument("--train", type=int, default=2000, help="scenes to fit the probes on")
    args = parser.parse_args()
    encoder = load_encoder(args.model, args.pretrained)
    pairs = draw_pairs(encoder, args.seed, args.split, range(max(args.images)))
    features, texts = encode_scenes(encoder, pairs), encode_captions(encoder, pairs)
    recall = {n: measure_recall(features["embedding"][:n, :, 0, 0], texts[: n * CAPTIONS]) for n in args.images}
    fitted = encode_scenes(encoder, draw_pairs(encoder, args.seed, "train", range(args.train)))
    train_labels = mark_classes(args.seed, "train", args.train)
    labels = mark_classes(args.seed, args.split, max(args.images))
    precision = {}
    for name, values in fitted.items():
        precision[name] = measure_precision(fit_probe(values, train_labels), features[name], labels)
    chance = round(100 * labels.mean().item(), 1)
    print(json.dumps({"recall": recall, "average_precision": precision, "chance": chance}))


if __name__ == "__main__":
    main()
