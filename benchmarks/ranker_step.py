"""allRank's training step compared with xmrank's: the same lists, weights and core, in turn.

    python benchmarks/ranker_step.py            # takes some minutes; --quick for a first look

For each loss these are timed, in lists per second of CPU time, medians over repeats:
    allrank        allRank's training step (loss_batch) on batches that are in memory
    allrank_fit    an epoch of allRank's fit, which reads the lists and scores them again for the metrics
    xmrank         xmrank's step: gather by row number, forward, loss sum, backward, fused AdamW; scores are kept
    xmrank_exact   the same with allRank's layer norm, so that scores and losses equal allRank's
    xmrank_epoch   the same as xmrank, with metrics of the kept scores
    xmrank_bf16    xmrank_epoch under bfloat16 autocast
Lists of 51 items, 512 + 512 numbers per item, width 64, 2 layers, 4 heads, feed-forward 128, batches of 32, no dropout.
xmrank's usual layer norm differs slightly from allRank's (root of variance + 1e-5 instead of deviation + 1e-6), hence
xmrank_exact. Also printed: the differences in scores, losses and gradients on the same weights, the peak memory of
gathering an epoch of 29,000 lists, and which fraction of the machine's fp32 matrix multiplication rate the step
reaches. The table goes to stderr, one line of JSON to stdout. allRank is installed into a folder of its own;
allrank_peer.py says what is patched.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import allrank_peer as peer
import numpy as np
import torch
from paper_training import read_paper_training
from ranker_timing import gemm_rate, interleaved, lists_per_second, pin_to_one_core, ratio
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xmrank.losses import LOSSES
from xmrank.metrics import list_metrics
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import Ranker, build_ranker
from xmrank.rankers.parameters import LayerNorm
from xmrank.runtime.paths import home
from xmrank.train.list_data import ListData

ITEMS, DIMENSIONS, WIDTH, LAYERS, HEADS, FEED_FORWARD, BATCH, RATE = 51, 512, 64, 2, 4, 128, 32, 1e-3
STEPS = 8
"""Steps of an epoch, which are timed together."""
ROWS = 100_000
"""Rows of each side of the store; more than fit in a processor's caches."""
PARAMETERS: dict[str, dict[str, Any]] = {"neural_ndcg": {"independent": True}}
"""Parameters that training passes to a loss."""
TARGETS = {"step": {name: 2.0 if name == "neural_ndcg" else 1.5 for name in peer.LOSSES}, "fit": 2.5, "bf16_fit": 4.0}


@dataclass(frozen=True)
class BenchmarkLists:
    """The same lists for both: row numbers of a store for xmrank, features for allRank."""

    list_data: ListData
    batches: list[tuple[Tensor, Tensor]]
    features: np.ndarray
    labels: np.ndarray


def make_lists() -> BenchmarkLists:
    """A store of random unit vectors, and an epoch of lists with one positive each."""
    # Row numbers are random over all rows, so that gathering misses the caches as in training.
    random, count = np.random.default_rng(0), STEPS * BATCH
    sides = [nn.functional.normalize(torch.randn(ROWS, DIMENSIONS), dim=1).half() for _ in range(2)]
    queries, items = random.integers(0, ROWS, count), random.integers(0, ROWS, (count, ITEMS))
    labels = np.zeros((count, ITEMS), np.float32)
    labels[np.arange(count), random.integers(0, ITEMS, count)] = 1
    cosine = torch.einsum("ld,lid->li", sides[0][queries].float(), sides[1][items].float())
    lists = CandidateLists.from_matrices(queries, items, labels, cosine.numpy(), np.full(count, ITEMS))
    query = sides[0][queries][:, None].expand(-1, ITEMS, -1)
    features = torch.cat([query, sides[1][items]], -1).float()
    batches = list(zip(features.split(BATCH), torch.from_numpy(labels).split(BATCH), strict=True))
    data = ListData(lists, sides[0], sides[1], torch.device("cpu"))
    return BenchmarkLists(data, batches, features.double().numpy(), labels.astype(np.float64))


def make_ours(state: dict[str, Tensor], layer_norm: LayerNorm = "standard") -> Ranker:
    """xmrank's ranker with allRank's weights."""
    shape: dict[str, Any] = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "feed_forward": FEED_FORWARD}
    parameters = replace(read_paper_training().ranker, layer_norm=layer_norm, **shape)
    ranker = build_ranker(parameters, dimensions=DIMENSIONS)
    ranker.load_state_dict(peer.as_ours(state, unbiased=layer_norm == "unbiased"))
    return ranker


def make_theirs() -> nn.Module:
    """allRank's model, always with the same initial weights."""
    torch.manual_seed(1)
    return peer.make_model(WIDTH, LAYERS, HEADS, FEED_FORWARD, 2 * DIMENSIONS)


def differences(benchmark: BenchmarkLists, loss: str, layer_norm: LayerNorm) -> dict[str, float]:
    """The largest differences in scores, loss and gradient between both, on the first batch."""
    theirs = make_theirs()
    ours = make_ours(theirs.state_dict(), layer_norm)
    features, labels = benchmark.batches[0]
    batch = benchmark.list_data.gather_batch(np.arange(BATCH))
    scores = theirs(features, labels == -1, None)
    value = peer.make_loss(loss)(scores, labels)
    value.backward()
    our_scores = ours(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
    our_value = LOSSES[loss](our_scores, batch.labels, mask=batch.mask, **PARAMETERS.get(loss, {}))
    our_value.backward()
    gradient = theirs.get_parameter("input_layer.layers.0.weight").grad
    our_gradient = ours.input.weight.grad
    assert gradient is not None and our_gradient is not None
    return {
        "scores": (scores - our_scores).abs().max().item(),
        "loss": abs(value.item() - our_value.item()) / abs(value.item()),
        "gradient": ((gradient - our_gradient).abs().max() / gradient.abs().max()).item(),
    }


def our_epoch(
    benchmark: BenchmarkLists,
    loss: str,
    *,
    layer_norm: LayerNorm = "standard",
    metrics: bool = False,
    bf16: bool = False,
) -> Callable[[], None]:
    """An epoch of xmrank's training steps, with or without the metrics of its scores."""
    ranker = make_ours(make_theirs().state_dict(), layer_norm)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def run() -> None:
        kept = []
        for start in range(0, STEPS * BATCH, BATCH):
            batch = benchmark.list_data.gather_batch(np.arange(start, start + BATCH))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                scores = ranker(batch.query, batch.candidates, batch.similarity, mask=batch.mask)
            sums = LOSSES[loss].sums(scores, batch.labels, mask=batch.mask, **PARAMETERS.get(loss, {}))
            optimizer.zero_grad(set_to_none=True)
            sums.reduce_lists().backward()
            optimizer.step()
            # Kept, so that the metrics of all batches are computed in one call.
            kept.append((scores.detach(), batch.labels, batch.mask))
        if metrics:
            scores, labels, mask = (torch.cat(parts) for parts in zip(*kept, strict=True))
            list_metrics(scores.float().numpy(), labels.numpy(), mask=mask.numpy())

    return run


def their_epochs(benchmark: BenchmarkLists, loss: str, folder: Path) -> dict[str, Callable[[], None]]:
    """An epoch of allRank's training steps, and an epoch of its fit."""
    from allrank.training.train_utils import loss_batch

    model, function = make_theirs(), peer.make_loss(loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    fitted = make_theirs()
    fit_optimizer = torch.optim.Adam(fitted.parameters(), lr=RATE)
    fit = peer.Fit(benchmark.features, benchmark.labels, BATCH, folder)

    def steps() -> None:
        for features, labels in benchmark.batches:
            loss_batch(model, function, features, labels, None, None, optimizer)

    return {"allrank": steps, "allrank_fit": lambda: fit(fitted, function, fit_optimizer)}


def measure(benchmark: BenchmarkLists, loss: str, repeats: int, folder: Path) -> dict[str, Any]:
    """All figures of one loss."""
    contenders = their_epochs(benchmark, loss, folder) | {
        "xmrank": our_epoch(benchmark, loss),
        "xmrank_exact": our_epoch(benchmark, loss, layer_norm="unbiased"),
        "xmrank_epoch": our_epoch(benchmark, loss, metrics=True),
        "xmrank_bf16": our_epoch(benchmark, loss, metrics=True, bf16=True),
    }
    # One epoch is counted before anything is timed; counting slows it down.
    with FlopCounterMode(display=False) as counter:
        contenders["xmrank"]()
    seconds = interleaved(contenders, repeats)
    rates = {name: lists_per_second(values, STEPS * BATCH) for name, values in seconds.items()}
    return {
        "lists_per_second": rates,
        "step_ratio": ratio(seconds["allrank"], seconds["xmrank"]),
        "exact_step_ratio": ratio(seconds["allrank"], seconds["xmrank_exact"]),
        "fit_ratio": ratio(seconds["allrank_fit"], seconds["xmrank_epoch"]),
        "bf16_fit_ratio": ratio(seconds["allrank_fit"], seconds["xmrank_bf16"]),
        "gflops": counter.get_total_flops() / (STEPS * BATCH) * rates["xmrank"] / 1e9,
        "difference": differences(benchmark, loss, "standard"),
        "difference_exact": differences(benchmark, loss, "unbiased"),
    }


def gathering_memory(folder: Path) -> int:
    """Peak bytes of gathering an epoch, beyond the interpreter with torch, in a process of its own."""
    script, store = Path(__file__).with_name("ranker_memory.py"), folder / "side.npy"
    for what in ("write", "gather"):
        done = subprocess.run([sys.executable, script, what, store], check=True, stdout=subprocess.PIPE, text=True)
    store.unlink()
    return int(done.stdout)


def table(result: dict[str, Any]) -> str:
    """The figures as a table for people."""
    first = next(iter(result["losses"].values()))
    ratios = [key for key in first if key.endswith("_ratio")]
    headings = [*first["lists_per_second"], *(key.removesuffix("_ratio") + " ×" for key in ratios), "GEMM %"]
    lines = ["".join(f"{heading:>14}" for heading in ["lists/s", *headings])]
    for name, row in result["losses"].items():
        cells = [f"{rate:.0f}" for rate in row["lists_per_second"].values()] + [f"{row[key]:.2f}" for key in ratios]
        cells.append(f"{100 * row['gflops'] / result['gemm_gflops']:.0f}")
        lines.append("".join(f"{cell:>14}" for cell in [name, *cells]))
    for name, row in result["losses"].items():
        far = ", ".join(f"{what} {value:.1e}" for what, value in row["difference_exact"].items())
        lines.append(f"{name}: xmrank_exact differs from allRank in {far}")
    lines.append(f"fp32 GEMM {result['gemm_gflops']:.0f} GFLOP/s, peak memory {result['peak_bytes'] / 1e6:.0f} MB")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--losses", nargs="+", default=list(peer.LOSSES), choices=list(peer.LOSSES))
    parser.add_argument("--scratch", type=Path, default=home() / "build", help="where allRank is installed")
    options = parser.parse_args()
    pin_to_one_core()
    peer.make_importable(options.scratch)
    torch.manual_seed(0)
    benchmark = make_lists()
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: measure(benchmark, name, 4 if options.quick else 15, Path(folder)) for name in options.losses}
        memory = gathering_memory(Path(folder))
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    result = {"machine": machine, "losses": rows, "gemm_gflops": gemm_rate(), "peak_bytes": memory, "targets": TARGETS}
    print(table(result), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
