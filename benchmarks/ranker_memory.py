"""Peak memory of an epoch's gathering: 29,000 queries × 51 candidates × (512 + 512) numbers of a memory-mapped store.

Run by ranker_step.py in a process of its own; prints bytes above what the interpreter takes with torch loaded.
"""

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:  # what our own imports take counts, so they come after the first look at memory
    from xmrank.mine.candidate_lists import CandidateLists
    from xmrank.train.list_data import ListData

ROWS, DIMENSIONS, QUERIES, ITEMS, BATCH = 174_000, 512, 29_000, 51, 32


def peak() -> int:
    """The largest resident size of this process so far, bytes."""
    # Not getrusage where it can be helped: it gives a parent's size where that was larger.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_store(path: Path) -> None:
    """A side of a store, float16, made a block at a time so that making it is not what is measured."""
    random = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(ROWS, DIMENSIONS))
    for start in range(0, ROWS, 1000):
        block = random.standard_normal((min(1000, ROWS - start), DIMENSIONS), dtype=np.float32)
        array[start : start + 1000] = block / np.linalg.norm(block, axis=1, keepdims=True)


def make_lists() -> "CandidateLists":
    """Random lists with one positive each."""
    from xmrank.mine.candidate_lists import CandidateLists

    random = np.random.default_rng(1)
    labels = np.zeros((QUERIES, ITEMS), np.float32)
    labels[np.arange(QUERIES), random.integers(0, ITEMS, QUERIES)] = 1
    items = random.integers(0, ROWS, (QUERIES, ITEMS), dtype=np.int32)
    queries = random.integers(0, ROWS, QUERIES, dtype=np.int32)
    return CandidateLists.from_matrices(queries, items, labels, np.zeros_like(labels), np.full(QUERIES, ITEMS))


def gather_all(data: "ListData") -> None:
    """One epoch: every batch gathered and brought to float32, as the ranker does."""
    order = np.random.default_rng(2).permutation(QUERIES)
    for start in range(0, QUERIES, BATCH):
        batch = data.batch(order[start : start + BATCH])
        batch.candidates.float().sum(), batch.query.float().sum()


def main(store: Path) -> None:
    """Print the peak of one epoch above the start's, in bytes."""
    before = peak()
    from xmrank.train.list_data import ListData

    sides = [torch.from_numpy(np.load(store, mmap_mode="c")) for _ in range(2)]
    gather_all(ListData(make_lists(), sides[0], sides[1], torch.device("cpu")))
    print(peak() - before)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write_store(Path(sys.argv[2]))
    elif sys.argv[1] == "gather":
        main(Path(sys.argv[2]))
    else:
        raise SystemExit(f"write or gather, not {sys.argv[1]}")
