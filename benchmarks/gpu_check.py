"""The first hour on a GPU: everything of xmrank that a GPU changes, in under 12 minutes, with figures.

    python benchmarks/gpu_check.py                          # on one GPU
    python benchmarks/gpu_check.py --device cpu --small     # tries the script itself, in minutes
    python benchmarks/gpu_check.py --only faiss ddp

Each section runs in a process of its own with a time limit, so that one that fails, hangs or fills the memory does not
end the others. Prints a table as it goes, and one JSON line at the end. The exit status is 1 where a section failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_sections import (
    FULL,
    ROOT,
    SMALL,
    Check,
    check_batch_size,
    check_ddp,
    check_embedding,
    check_faiss,
    check_jobs,
    check_precision,
    check_stack,
    check_tokens,
    last_line,
)

LIMIT_S = 660.0
"""All sections together; what has not begun by then is left out, and says so."""
SECTIONS: dict[str, tuple[Callable[[Check], dict[str, Any]], float]] = {
    "ddp": (check_ddp, 60),
    "batch_size": (check_batch_size, 90),
    "precision": (check_precision, 150),
    "faiss": (check_faiss, 120),
    "stack": (check_stack, 150),
    "tokens": (check_tokens, 120),
    "embedding": (check_embedding, 180),
    "jobs": (check_jobs, 300),
}
"""Each section and its time limit in seconds; the quick ones first."""


def run_section(name: str, arguments: argparse.Namespace, folder: Path, limit: float) -> dict[str, Any]:
    """Run a section in a process of its own; its figures, or the last line of its error."""
    command = [sys.executable, __file__, "--section", name, "--device", arguments.device, "--folder", str(folder)]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command + ["--small"] * arguments.small, capture_output=True, text=True, timeout=limit, cwd=ROOT
        )
        result = json.loads(last_line(done.stdout)) if done.returncode == 0 else {"error": last_line(done.stderr)}
    except subprocess.TimeoutExpired:
        result = {"error": f"not done after {limit:.0f} s"}
    return result | {"seconds": round(time.perf_counter() - started, 1)}


def describe_machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"device": device, "GPU": name, "CPUs": os.cpu_count(), "torch": torch.__version__}


def print_section(name: str, result: dict[str, Any]) -> None:
    """The rows of the table for one section."""
    for key, value in result.items():
        print(f"{name:<12} {key:<34} {value}", flush=True)


def main() -> int:
    """Run the sections, print the table and the JSON line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes: tries the script, measures nothing")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), default=tuple(SECTIONS))
    parser.add_argument("--limit-factor", type=float, default=1.0, help="of the time limits, for a busy machine")
    parser.add_argument("--section", choices=tuple(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        check = Check(arguments.device, SMALL if arguments.small else FULL, arguments.folder)
        print(json.dumps(SECTIONS[arguments.section][0](check)))
        return 0
    results: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + LIMIT_S * arguments.limit_factor
    with tempfile.TemporaryDirectory(prefix="xmrank-gpu-", ignore_cleanup_errors=True) as folder:
        for name in arguments.only:
            own = Path(folder, name)
            own.mkdir()
            limit = min(SECTIONS[name][1] * arguments.limit_factor, end - time.monotonic())
            left_out = {"error": "left out: no time was left"}
            results[name] = run_section(name, arguments, own, limit) if limit > 10 else left_out
            print_section(name, results[name])
    failed = [name for name, result in results.items() if "error" in result]
    about = describe_machine(arguments.device) | {"sizes": asdict(SMALL if arguments.small else FULL)}
    print(json.dumps({"machine": about, "failed": failed, "sections": results}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
