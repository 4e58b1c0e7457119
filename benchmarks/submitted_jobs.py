"""Every job by ``ray job submit``, to a cluster with token authentication: success, wrong setting, kill, damage, stop.

    PYTHONPATH=.:tests python benchmarks/submitted_jobs.py --folder /data/submitted

Starts a head of two CPUs on free ports, with what the tests use. Each script of jobs/ is submitted on small data, and
what the job server says of it is compared with what is expected:

- wrong: a value that the job refuses. The driver's exit status is 2, and one line names the flag.
- killed: SIGKILL of the driver, once it has begun to write. Short jobs get a damaged input instead, and refuse it.
- stopped: ``ray job stop``, once it has begun to write. Nothing but Ray's own remains, and the directory is free.
- done: the same command again, which ends well.

Prints a line for each as it goes, then a table in Markdown. The exit status is 1 if one is not as expected.
"""

import argparse
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cluster_head import Head, Submission, copy_code, running_head
from labelled_features import write_features

LONG_S = 1500.0
KINDS = ("wrong", "killed", "damaged", "stopped", "done")
QUERIES = 3000
"""Of the job that ranks."""
IMAGES = 10000
"""Of the imported store that lists are mined from: enough to stop a job that mines."""
STORE, LISTS = "--embeddings runs/embeddings", "--lists runs/lists"
SMALL = "--ranker.width 8 --ranker.layers 1 --ranker.heads 2 --ranker.feed-forward 8"
SCENES = "--scenes.train 120 --scenes.val 40 --scenes.test 40"


@dataclass(frozen=True)
class Case:
    """A job and how it is tried.

    Attributes:
        job: name of its script.
        output: its directory.
        flags: of a command that ends well.
        wrong: flags that go over them, and are refused.
        begun: files below the output that are there once it is at work; empty: too short to be hit.
        damaged: an input that is damaged instead; empty: none.
    """

    job: str
    output: str
    flags: str
    wrong: str
    begun: str = ""
    damaged: str = ""

    def command(self, more: str = "") -> list[str]:
        """The command line."""
        output = ["--output", self.output] if self.output else []
        return ["python", f"jobs/{self.job}.py", *f"{self.flags} {more}".split(), *output]


CASES = [
    Case("embed", "runs/scenes", "--scenes.train 3000 --scenes.val 100 --scenes.test 100 --shard-size 50",
         "--shard-size 0", begun="work/image-*.json"),
    Case("mine", "runs/lists-large", "--embeddings runs/large --strategy top-k --workers 2",
         "--random-candidates 20 --hard-negatives 30 --strategy random-hard", begun="*.parquet"),
    Case("train", "runs/rankers", f"{STORE} {LISTS} --losses listnet lambdarank --seeds 0 1 --epochs 150 {SMALL}",
         "--losses listnett", begun="trials/*/*.safetensors"),
    Case("tune", "runs/tuned", f"{STORE} {LISTS} --train.losses listnet --train.epochs 40 --repeats 0 --space "
         "learning_rate=[0.01,0.003,0.001] batch_size=[16,32,64]", "--space learningrate=[0.1]",
         begun="search/points/*/result.json"),
    Case("evaluate", "runs/evaluation", f"{STORE} {LISTS} --rankers runs/many", "--top-n 0", begun="work/*.summary"),
    Case("baselines", "runs/baselines", f"{STORE} {LISTS} --baselines cca vsepp infonce --seeds 0 1 2 3 "
         "--vsepp.epochs 150 --infonce.epochs 150", "--baselines cmp", begun="fits/*/history.json"),
    Case("supervised", "runs/supervised", "--data toy=features --methods lcm dscmr clip4cmr cca --runs 0 1 2 3",
         "--data toy", begun="results/work/**/*"),
    Case("rank", "runs/ranking", f"{STORE} --queries captions.txt --ranker runs/rankers", "--top-n 0",
         begun="work/**/*"),
    Case("report", "runs/report", f"{STORE} --rankers runs/many --evaluation runs/evaluation", "--examples -1",
         damaged="runs/evaluation/metrics.parquet"),
    Case("qrels", "runs/qrels", f"{STORE} --results runs/evaluation --plausible", "--least-grade -1",
         damaged="runs/evaluation/rankings.parquet"),
    Case("sentences", "runs/sentences", STORE, "--batch-size 0"),
    Case("train_encoder", "runs/encoder", "--images 600 --held-out 50 --epochs 30 --batch-size 100 --workers 2 "
         "--no-autocast", "--batch-size 0", begun="work/checkpoint.safetensors"),
    Case("register", "", f"{STORE} --rankers runs/many --evaluation runs/evaluation --name toy",
         "--name a/b", damaged="runs/evaluation/metrics.parquet"),
    Case("experiment", "runs/experiment", f"--train.losses listnet --train.epochs 60 --train.seeds 0 1 "
         f"--register none {SCENES.replace('--', '--embed.')} {SMALL.replace('--', '--train.')} "
         "--mine.random-candidates 20 --mine.hard-negatives 8", "--embed.output runs/other",
         begun="rankers/trials/*/*.safetensors"),
]  # fmt: skip
"""In the order in which they feed each other."""


@dataclass(frozen=True)
class Row:
    """What came of a submission.

    Attributes:
        status: of the record.
        driver: exit status of the driver, in the record.
        client: exit status of ``ray job submit``.
        line: the last line that the job printed.
        left: names of the processes of the job that did not go.
        seconds: from the kill or the stop to the end of the job; otherwise of the whole submission.
        right: whether it is as expected.
    """

    job: str
    case: str
    status: str
    driver: int | None
    client: int
    line: str
    left: list[str]
    seconds: float
    right: bool


class Trials:
    """Submits the cases, one after another."""

    def __init__(self, head: Head, home: Path) -> None:
        self.head, self.home = head, home

    def submit(self, case: Case, name: str, command: list[str], expected: Callable[[Row], bool]) -> Row:
        """Submit, wait for the end, look what is left."""
        started = time.monotonic()
        submission = self.head.start(*command, home=self.home)
        return self.finish(submission, case, name, started, expected)

    def interrupt(self, case: Case, name: str, strike: Callable[[Submission], object]) -> Row:
        """Submit, wait until the job has begun to write, and kill or stop it."""
        before = set(self.list_begun(case))
        submission = self.head.start(*case.command(), home=self.home)
        deadline = time.monotonic() + LONG_S
        while set(self.list_begun(case)) <= before and submission.client.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        started = time.monotonic()
        strike(submission)
        expected = {"killed": is_killed, "stopped": is_stopped}[name]
        return self.finish(submission, case, name, started, expected)

    def list_begun(self, case: Case) -> Iterator[tuple[Path, int]]:
        """The files that show that a job is at work, with their times: a job that continues writes others."""
        for path in (self.home / case.output).glob(case.begun):
            if path.is_file() and path.name[0] != ".":
                yield path, path.stat().st_mtime_ns

    def finish(
        self, submission: Submission, case: Case, name: str, started: float, expected: Callable[[Row], bool]
    ) -> Row:
        """What came of a submission."""
        output = submission.client.communicate(timeout=LONG_S)[0]
        seconds = time.monotonic() - started
        record = submission.wait_for_record()
        left = [read_title(number) for number in submission.wait_for_processes()]
        lines = [line for line in output.splitlines() if line.startswith(case.job)]
        values = [record.status, record.driver_exit_code, submission.client.returncode]
        row = Row(case.job, name, *map(plain, values), lines[-1] if lines else "", left, round(seconds, 1), right=False)
        right = expected(row) and not left and "Traceback" not in output
        if not right:
            print(output, file=sys.stderr)
        row = Row(**asdict(row) | {"right": right})
        print(json.dumps(asdict(row)), flush=True)
        return row


def plain(value: Any) -> Any:
    """A value for JSON: Ray's status is an enumeration."""
    return getattr(value, "value", value)


def read_title(number: int) -> str:
    """What a process calls itself."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def is_done(row: Row) -> bool:
    return (row.status, row.driver, row.client) == ("SUCCEEDED", 0, 0)


def is_wrong(row: Row) -> bool:
    return (row.status, row.driver, row.client) == ("FAILED", 2, 1) and row.line.startswith(f"{row.job}: --")


def is_refused(row: Row) -> bool:
    return (row.status, row.driver, row.client) == ("FAILED", 1, 1) and bool(row.line)


def is_killed(row: Row) -> bool:
    return row.status == "FAILED" and row.driver not in (None, 0) and row.client == 1


def is_stopped(row: Row) -> bool:
    return row.status == "STOPPED" and row.client == 0 and row.seconds < 20


def kill_driver(submission: Submission) -> None:
    """SIGKILL of the driver."""
    driver = submission.find_driver()
    if driver is not None:
        os.kill(driver, signal.SIGKILL)


def try_case(case: Case, trials: Trials, wanted: Sequence[str]) -> Iterator[Row]:
    """All that is done with one job."""
    if "wrong" in wanted:
        yield trials.submit(case, "wrong", case.command(case.wrong), is_wrong)
    if "killed" in wanted and case.begun:
        yield trials.interrupt(case, "killed", kill_driver)
    if "damaged" in wanted and case.damaged:
        with damaged_file(trials.home / case.damaged):
            yield trials.submit(case, "damaged", case.command(), is_refused)
    if "stopped" in wanted and case.begun:
        yield trials.interrupt(case, "stopped", Submission.stop)
    if "done" in wanted:
        # Its package is an extra, and without it that is what the job says.
        missing = case.job == "sentences" and importlib.util.find_spec("sentence_transformers") is None
        yield trials.submit(case, "done", case.command(), is_wrong if missing else is_done)


@contextmanager
def damaged_file(path: Path) -> Iterator[None]:
    """A file with other bytes in its middle, for the length of a block."""
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(16) + whole[half + 16 :])
    try:
        yield
    finally:
        path.write_bytes(whole)


def prepare_inputs(head: Head, home: Path) -> None:
    """What the jobs read, all made by one submission: two stores, lists, and rankers enough for a long evaluation."""
    generator = np.random.default_rng(0)
    for name, rows in (("images", IMAGES), ("texts", 5 * IMAGES)):
        np.save(home / f"{name}.npy", generator.normal(size=(rows, 64)).astype(np.float32))
    splits = ["train"] * (IMAGES - 200) + ["val"] * 100 + ["test"] * 100
    ids = {"image_ids": list(range(IMAGES)), "caption_ids": list(range(5 * IMAGES)), "split": splits}
    (home / "ids.json").write_text(json.dumps(ids))
    colours = ("red", "blue", "green", "yellow")
    (home / "captions.txt").write_text("".join(f"a {colours[i % 4]} circle, number {i}\n" for i in range(QUERIES)))
    write_features(home / "features")
    losses = "listnet lambdarank ranknet listmle softmax bce"
    arrays = "--import-images images.npy --import-texts texts.npy --import-ids ids.json"
    jobs = [
        f"embed.py {SCENES} --output runs/embeddings",
        f"embed.py {arrays} --output runs/large",
        f"mine.py {STORE} --random-candidates 20 --hard-negatives 8 --output runs/lists",
        f"train.py {STORE} {LISTS} --losses {losses} --seeds 0 1 2 3 --epochs 1 {SMALL} --output runs/many",
    ]
    status, output = head.submit("bash", "-ec", "; ".join(f"python jobs/{job}" for job in jobs), home=home)
    assert status == 0, output


def print_table(rows: list[Row]) -> None:
    """The rows in Markdown."""
    print("| job | case | status | driver | client | printed last | left | seconds |")
    print("|---|---|---|---:|---:|---|---|---:|")
    for row in rows:
        driver = "" if row.driver is None else row.driver
        left = ", ".join(row.left) or "nothing"
        cells = (row.job, row.case, row.status, driver, row.client, f"`{row.line}`", left, row.seconds)
        print(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    """Try the jobs that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty or new folder, for all that is written")
    parser.add_argument("--jobs", nargs="*", default=[case.job for case in CASES])
    parser.add_argument("--cases", nargs="*", choices=KINDS, default=KINDS)
    given = parser.parse_args()
    home = given.folder.resolve() / "home"
    home.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with running_head(given.folder / "head", copy_code(given.folder / "code")) as head:
        if not (home / "runs/many/manifest.json").exists():
            prepare_inputs(head, home)
        for case in CASES:
            if case.job in given.jobs:
                rows += try_case(case, Trials(head, home), given.cases)
    print_table(rows)
    sys.exit(0 if all(row.right for row in rows) else 1)


if __name__ == "__main__":
    main()
