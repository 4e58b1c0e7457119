"""The sections of gpu_check.py: each takes what to check on and returns figures by name."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sizes:
    """How much work the sections do."""

    model: str
    images: int
    shard: int
    largest_batch: int
    batch: int
    steps: int
    dimensions: int
    gallery: int
    queries: int
    trained_images: int
    seeds: int
    tokens: int
    token_width: int
    scenes: tuple[int, int, int]
    random_candidates: int


FULL = Sizes(
    model="ViT-B-32", images=8192, shard=512, largest_batch=4096, batch=256, steps=30, dimensions=512,
    gallery=1_000_000, queries=10_000, trained_images=3000, seeds=10, tokens=49, token_width=128,
    scenes=(2000, 400, 400), random_candidates=200,
)  # fmt: skip
SMALL = Sizes(
    model="xmrank-tiny", images=48, shard=8, largest_batch=8, batch=4, steps=2, dimensions=16,
    gallery=2000, queries=20, trained_images=40, seeds=1, tokens=4, token_width=8,
    scenes=(40, 10, 10), random_candidates=8,
)  # fmt: skip
QUERIES = "queries.txt"
LOSSES = ("lambdarank", "neural_ndcg", "listnet", "ranknet")


@dataclass(frozen=True)
class Check:
    """What a section gets: the device ("cuda" or "cpu"), the sizes, and a folder of its own."""

    device: str
    sizes: Sizes
    folder: Path

    @property
    def untrained(self) -> dict[str, Any]:
        """The model's arguments: without weights, as only the compute matters."""
        return {} if self.sizes.model == "xmrank-tiny" else {"pretrained": "none", "init_seed": 0}

    def synchronise(self) -> None:
        """Wait for what the GPU was given."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def measure(self, step: Callable[[], object], steps: int) -> float:
        """Seconds of one step, after a first one that is not counted."""
        step()
        self.synchronise()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        self.synchronise()
        return (time.perf_counter() - started) / steps

    def peak_memory(self) -> float | None:
        """The most GPU memory that this process has had, GiB."""
        import torch

        return round(torch.cuda.max_memory_allocated() / 1024**3, 2) if self.device == "cuda" else None


@contextmanager
def sampled_utilisation(check: Check) -> Iterator[list[float]]:
    """The GPU's utilisation in percent, twice a second while the block runs; empty on a CPU."""
    samples: list[float] = []
    over = threading.Event()
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]

    def sample() -> None:
        while check.device == "cuda" and not over.wait(0.5):
            done = subprocess.run(command, capture_output=True, text=True)
            samples.extend(float(line) for line in done.stdout.split() if line.isdigit())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def check_embedding(check: Check) -> dict[str, Any]:
    """The stage on Ray, readers and encoder in separate actors on a GPU, beside a bare loop of the same work."""
    from embedding import staged

    from xmrank.config import EmbedConfig
    from xmrank.datasets.reader_settings import ScenesConfig, ScenesSettings
    from xmrank.datasets.readers import read_dataset

    sizes = check.sizes
    scenes = ScenesConfig(train=sizes.images, val=0, test=0, folder=check.folder / "data")
    config = EmbedConfig(
        output=check.folder / "store", dataset=ScenesSettings(scenes=scenes), model=sizes.model,
        batch_size=min(256, sizes.shard), shard_size=sizes.shard, workers=1, **check.untrained,
    )  # fmt: skip
    dataset = read_dataset(config.dataset)
    paths = [str(Path(dataset.root) / location) for location in dataset.images["location"].to_pylist()]
    bare = measure_bare_loop(check, config, paths)
    with sampled_utilisation(check) as samples:
        stage = staged(config, sizes.images)
    return {
        "bare images/s": round(bare, 1),
        "stage images/s": stage["images_per_second"],
        "ratio": round(stage["images_per_second"] / bare, 3),
        "start-up s": stage["start_up_seconds"],
        "GPU % (mean of the upper half)": round(np.mean(sorted(samples)[len(samples) // 2 :]), 1) if samples else None,
    }


def measure_bare_loop(check: Check, config: Any, paths: list[str]) -> float:
    """Images a second of torch's own data loader, with a process a core but one, and the model on the device."""
    import torch
    from torch.utils.data import DataLoader

    from xmrank.embed.encoder import load_encoder

    encoder = load_encoder(config.model, config.pretrained, init_seed=config.init_seed, device=check.device)
    readers = max(1, (os.cpu_count() or 2) - 1)
    data = DecodedImages(paths, encoder.pixels)
    finished = []
    for pixels in DataLoader(data, config.batch_size, num_workers=readers, multiprocessing_context="spawn"):
        encoder.encode_images(pixels).cpu()
        finished.append((time.perf_counter(), len(pixels)))
    del encoder
    if check.device == "cuda":
        torch.cuda.empty_cache()
    # Without the start of the readers: from the first batch on.
    return sum(count for _, count in finished[1:]) / (finished[-1][0] - finished[0][0])


class DecodedImages:
    """Images by number, decoded and resized, as a data loader takes them."""

    def __init__(self, paths: list[str], pixels: Any) -> None:
        self.paths, self.pixels = paths, pixels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        from xmrank.embed.decoding import decode_image

        return self.pixels.prepare(decode_image(Path(self.paths[number]).read_bytes()))


def check_batch_size(check: Check) -> dict[str, Any]:
    """The search for the largest batch that fits into the memory."""
    from xmrank.embed.encoder import load_encoder
    from xmrank.embed.preparing import Preparer
    from xmrank.embed.ray import find_batch_size

    sizes = check.sizes
    pixels = load_encoder(sizes.model, **check.untrained).pixels
    settings = {"model": sizes.model, "pretrained": None, "init_seed": None, "precision": "fp32", "tokens": None}
    started = time.perf_counter()
    found = find_batch_size(settings | check.untrained, Preparer(pixels, sizes.model, 1), sizes.largest_batch)
    seconds = time.perf_counter() - started
    return {"batch": found, "largest tried": sizes.largest_batch, "s": round(seconds, 1), "GiB": check.peak_memory()}


def check_precision(check: Check) -> dict[str, Any]:
    """Images a second in fp32, bf16, and bf16 compiled, and how far the embeddings are from those of fp32."""
    import torch
    from PIL import Image

    from xmrank.embed.encoder import load_encoder

    sizes, result, exact = check.sizes, {}, None
    for name, precision, compiled in (("fp32", "fp32", False), ("bf16", "bf16", False), ("compiled", "bf16", True)):
        encoder = load_encoder(sizes.model, precision=precision, device=check.device, **check.untrained)
        encoder = encoder.compile_model() if compiled else encoder
        noise = np.random.default_rng(0).integers(0, 256, (sizes.batch, 256, 256, 3), np.uint8)
        images = torch.stack([encoder.pixels.prepare(Image.fromarray(picture)) for picture in noise]).to(check.device)
        exact = encoder.encode_images(images) if exact is None else exact
        cosine = (encoder.encode_images(images) * exact).sum(1).min().item()
        seconds = check.measure(lambda encoder=encoder, images=images: encoder.encode_images(images), sizes.steps)
        result |= {f"{name} images/s": round(sizes.batch / seconds, 1), f"{name} least cosine": round(cosine, 5)}
    return result | {"GiB": check.peak_memory()}


def check_faiss(check: Check) -> dict[str, Any]:
    """Exact search and an inverted file, on the GPU where FAISS has one, compared with the CPU's exact search."""
    import faiss

    from xmrank.config import MineConfig
    from xmrank.mine.gallery_index import make_flat_index, make_index

    gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    if check.device == "cuda" and not gpus:
        raise RuntimeError("FAISS sees no GPU: install xmrank[gpu], which has faiss-gpu")
    sizes, generator = check.sizes, np.random.default_rng(0)
    gallery = generator.standard_normal((sizes.gallery, sizes.dimensions), dtype=np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    rows = np.arange(sizes.gallery)
    # Each query is near an item of the gallery.
    near = generator.integers(0, sizes.gallery, sizes.queries)
    queries = gallery[near] + 0.5 * generator.standard_normal((sizes.queries, sizes.dimensions), dtype=np.float32) / (
        sizes.dimensions**0.5
    )
    _, exact = make_flat_index(gallery, rows).search(queries[:100], 10)
    result: dict[str, Any] = {"GPUs": gpus}
    for kind in ("flat", "ivf"):
        index = make_index(gallery, rows, MineConfig(index=kind))
        seconds = check.measure(lambda index=index: index.search(queries, 10), 1)
        found = index.search(queries[:100], 10)[1]
        same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
        result |= {f"{kind} queries/s": round(sizes.queries / seconds, 1), f"{kind} recall@10": round(float(same), 4)}
        del index
    return result


def make_training(check: Check, directory: Path, **settings: Any) -> tuple[Any, Any]:
    """A configuration and the data of a training on random embeddings, with tokens."""
    import torch
    from paper_training import read_paper_training

    from xmrank.embed.store import EmbeddingStore
    from xmrank.embed.token_store import TokenArray
    from xmrank.mine.in_memory import mine_lists
    from xmrank.train.list_data import ListData
    from xmrank.train.training_data import TrainingData

    sizes, generator = check.sizes, np.random.default_rng(0)
    directory.mkdir()

    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    def draw_tokens(items: int) -> TokenArray:
        values = draw(items * sizes.tokens, sizes.token_width).astype(np.float16)
        return TokenArray(values, np.arange(items + 1) * sizes.tokens)

    count, images = sizes.trained_images, draw(sizes.trained_images, sizes.dimensions)
    splits = ["train"] * (count * 3 // 4) + ["val"] * (count - count * 3 // 4)
    tokens = {"image": draw_tokens(count), "text": draw_tokens(count)}
    store = EmbeddingStore.from_arrays(images, images + draw(*images.shape), splits=splits, tokens=tokens)
    mined = {"random_candidates": sizes.random_candidates, "hard_negatives": min(50, sizes.random_candidates // 2)}
    config = replace(read_paper_training(), directions=("t2i",), epochs=2, **settings)
    parts = [
        ListData.of(
            mine_lists(store, direction="t2i", split=split, **mined),
            store,
            "t2i",
            torch.device(check.device),
            tokens=config.ranker.reads_tokens,
        )
        for split in ("train", "val")
    ]
    return config, TrainingData(*parts, config.refine)


def train(check: Check, config: Any, data: Any, directory: Path, *, stacked: bool) -> dict[str, Any]:
    """Train the rankers of a configuration; lists a second over all of them, and the GPU's memory."""
    from xmrank.train.trainer import TrainingJob, train_group
    from xmrank.train.trial_groups import group_trials
    from xmrank.train.trial_log import TrialLog
    from xmrank.train.trials import Trial
    from xmrank.train.worker_group import WorkerGroup

    trials = [Trial(loss, "t2i", seed) for loss in config.losses for seed in config.seeds]
    job = TrainingJob(config, data, directory, WorkerGroup(), {}, TrialLog())
    started = time.perf_counter()
    for group in group_trials(trials, lambda _: config, directory, stacked=stacked):
        train_group(group, job)
    check.synchronise()
    lists = len(trials) * config.epochs * data.lists_per_epoch
    return {
        "rankers": len(trials),
        "lists/s": round(lists / (time.perf_counter() - started), 1),
        "GiB": check.peak_memory(),
    }


def check_stack(check: Check) -> dict[str, Any]:
    """Forty rankers trained as one stack (four losses, ten seeds), and one alone; in fp32 and in bf16."""
    result: dict[str, Any] = {}
    seeds = tuple(range(check.sizes.seeds))
    for name, losses, chosen, precision in (
        ("alone", LOSSES[:1], (0,), "fp32"),
        ("stack", LOSSES, seeds, "fp32"),
        ("bf16 stack", LOSSES, seeds, "bf16"),
    ):
        folder = check.folder / name.replace(" ", "-")
        config, data = make_training(check, folder, losses=losses, seeds=chosen, precision=precision)
        figures = train(check, config, data, folder, stacked=name != "alone")
        result |= {f"{name} {key}": value for key, value in figures.items()}
    return result


def check_tokens(check: Check) -> dict[str, Any]:
    """A ranker that reads tokens, of each kind."""
    from xmrank.rankers.parameters import CrossAttentionParameters, LateInteractionParameters

    result: dict[str, Any] = {}
    for ranker in (LateInteractionParameters(), CrossAttentionParameters()):
        folder = check.folder / ranker.name
        config, data = make_training(check, folder, losses=LOSSES[:1], seeds=(0,), ranker=ranker)
        figures = train(check, config, data, folder, stacked=False)
        result |= {f"{ranker.name} lists/s": figures["lists/s"], f"{ranker.name} GiB": figures["GiB"]}
    return result


def check_ddp(check: Check) -> dict[str, Any]:
    """DDP in one process, NCCL on a GPU and Gloo on a CPU: what a group of workers calls, and one step's gradient."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    backend = "nccl" if check.device == "cuda" else "gloo"
    store = f"file://{check.folder / 'rendezvous'}"
    dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = torch.nn.Linear(check.sizes.dimensions, 1).to(check.device)
        wrapped = DistributedDataParallel(plain, broadcast_buffers=False)
        inputs = torch.randn(64, check.sizes.dimensions, device=check.device)
        expected = torch.autograd.grad(plain(inputs).square().sum(), list(plain.parameters()))
        seconds = check.measure(lambda: wrapped(inputs).square().sum().backward(), check.sizes.steps)
        plain.zero_grad()
        wrapped(inputs).square().sum().backward()
        for parameter, gradient in zip(plain.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        total, objects, gathered = torch.ones(3, device=check.device), ["weights"], [None]
        dist.all_reduce(total)
        dist.broadcast_object_list(objects, src=0)
        dist.all_gather_object(gathered, [inputs[0].cpu()])
        dist.barrier(dist.new_group(backend="gloo"))
        assert total.tolist() == [1, 1, 1] and objects == ["weights"] and torch.equal(gathered[0][0], inputs[0].cpu())
    finally:
        dist.destroy_process_group()
    return {"backend": backend, "step ms": round(1000 * seconds, 3), "GiB": check.peak_memory()}


def check_jobs(check: Check) -> dict[str, Any]:
    """The jobs themselves on a Ray cluster: embed with tokens, mine, train a token ranker, evaluate, rank."""
    environment = os.environ | {"XMRANK_HOME": str(check.folder)}
    (check.folder / QUERIES).write_text("a red circle\na blue square left of a star\n")
    result: dict[str, Any] = {}
    for name, arguments in list_commands(check).items():
        started = time.perf_counter()
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {last_line(done.stderr)}")
        result[f"{name} s"] = round(time.perf_counter() - started, 1)
    return result


def list_commands(check: Check) -> dict[str, list[str]]:
    """The flags of every job, in the order in which they need each other."""
    folder, sizes = check.folder, check.sizes
    scenes = [f"--scenes.{name}={count}" for name, count in zip(("train", "val", "test"), sizes.scenes, strict=True)]
    lists = [f"--random-candidates={sizes.random_candidates}", f"--hard-negatives={sizes.random_candidates // 4}"]
    training = ["--ranker=late_interaction", "--losses", "listnet", "--seeds", "0", "--epochs=1"]
    store, mined, rankers = f"--embeddings={folder}/store", f"--lists={folder}/lists", f"{folder}/rankers"
    return {
        "embed": ["--tokens", "--image-token-layer=2", "--text-token-layer=1", *scenes, f"--output={folder}/store"],
        "mine": [store, *lists, f"--output={folder}/lists"],
        "train": [store, mined, *training, f"--output={rankers}"],
        "evaluate": [store, mined, f"--rankers={rankers}", "--top-n", "10", f"--output={folder}/evaluation"],
        "rank": [
            *(store, f"--queries={folder / QUERIES}", f"--ranker={rankers}", "--top-n=10"),
            f"--output={folder}/found",
        ],
    }


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
