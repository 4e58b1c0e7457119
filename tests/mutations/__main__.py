"""Runs many cases of every kind of input and prints what became of them, as a table in Markdown."""

import argparse
import collections
import faulthandler
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from mutations.all_inputs import INPUTS
from mutations.input_kind import InputKind
from mutations.mutated_case import OTHER, REFUSED, SAME, CaseResult, Workbench

HARD_SECONDS = 20
"""A case that does not end even so: the process that runs it is ended, and counted as a hang."""


def main() -> None:
    """Run the cases and print the figures; exit 1 where there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m mutations", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="cases of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(INPUTS), choices=list(INPUTS))
    parser.add_argument("--number", type=int, help="run this case only")
    options = parser.parse_args()
    each = -(-options.count // len(options.kinds))
    numbers = [options.number] if options.number is not None else list(range(each))
    results: list[CaseResult] = []
    for name in options.kinds:
        started = time.monotonic()
        results += run_kind(INPUTS[name], options.seed, numbers)
        print(f"{name}: {len(numbers)} cases, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print_faults(results)
    print_table(results)
    sys.exit(any(result.is_fault for result in results))


def run_kind(kind: InputKind, seed: int, numbers: list[int]) -> list[CaseResult]:
    """The results of a kind's cases, in processes of their own: one that dies is followed by another."""
    results: list[CaseResult] = []
    while len(results) < len(numbers):
        rest = numbers[len(results) :]
        received = run_process(kind, seed, rest)
        results += received
        if len(received) < len(rest):
            number = rest[len(received)]
            results.append(CaseResult(kind.name, number, "?", "crash or endless", "the process ended", HARD_SECONDS))
    return results


def run_process(kind: InputKind, seed: int, numbers: list[int]) -> list[CaseResult]:
    """The results up to the case at which the process died. A fork: the imports need not be repeated."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        status = 1
        try:
            run_cases(kind, seed, numbers, sender)
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    with os.fdopen(receiver) as lines:
        results = [CaseResult(**json.loads(line)) for line in lines]
    os.waitpid(child, 0)
    return results


def run_cases(kind: InputKind, seed: int, numbers: list[int], sender: int) -> None:
    """Run cases and send a line for each."""
    with tempfile.TemporaryDirectory() as folder, os.fdopen(sender, "w") as sink:
        # What readers print is of no interest; what ends the process goes to standard error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            bench = Workbench(kind, Path(folder) / kind.name)
            faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
            for result in bench.run_many(seed, numbers):
                # The clock starts anew for the next case.
                faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
                print(json.dumps(asdict(result)), file=sink, flush=True)
        except Exception:  # of the harness itself
            traceback.print_exc()
            raise
        faulthandler.cancel_dump_traceback_later()


def print_faults(results: list[CaseResult]) -> None:
    """The faults of each sort, with the first of its cases."""
    sorts: dict[tuple[str, str], list[CaseResult]] = collections.defaultdict(list)
    for result in results:
        if result.is_fault:
            sorts[result.kind, result.outcome].append(result)
    for (kind, outcome), found in sorts.items():
        first = found[0]
        print(f"{kind}: {outcome}: {len(found)}, first --number {first.number} ({first.change}): {first.detail[:300]}")


def print_table(results: list[CaseResult]) -> None:
    """A row for each kind: inputs, outcomes, and the slowest."""
    print("| input | inputs | refused in one line | same values read | other values read | faults | slowest |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    kinds = list(dict.fromkeys(result.kind for result in results))
    for kind in [*kinds, "all"]:
        own = [result for result in results if kind in (result.kind, "all")]
        counts = collections.Counter(result.outcome for result in own)
        figures = [len(own), counts[REFUSED], counts[SAME], counts[OTHER], sum(result.is_fault for result in own)]
        slowest = max(result.seconds for result in own)
        print(f"| {kind} | {' | '.join(f'{figure:,}' for figure in figures)} | {slowest:.2f} s |")


if __name__ == "__main__":
    main()
