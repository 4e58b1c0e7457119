"""benchmarks/gpu_check.py: tried on the CPU at tiny size, sections give a result; one that fails ends nothing.

The jobs that one section runs have tests of their own; of that section, the flags are looked at here.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_sections import SMALL, Check, list_commands
from xmrank.config.jobs import JOBS
from xmrank.config.parsing import parse_config

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
FIGURES = {
    "ddp": {"backend", "step ms"},
    "batch_size": {"batch", "largest tried"},
    "precision": {"fp32 images/s", "bf16 images/s", "compiled images/s", "bf16 least cosine", "compiled least cosine"},
    "faiss": {"flat queries/s", "flat recall@10", "ivf queries/s", "ivf recall@10"},
    "stack": {"alone lists/s", "stack lists/s", "stack rankers", "bf16 stack lists/s"},
    "tokens": {"late_interaction lists/s", "cross_attention lists/s"},
}


def check(*arguments):
    """The exit status, the table's lines, and the JSON line."""
    command = [sys.executable, SCRIPT, "--device", "cpu", "--small", "--limit-factor", "10", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    *table, line = done.stdout.splitlines()
    return done.returncode, table, json.loads(line)


@pytest.mark.own_ray
def test_a_small_run_gives_sections_a_result():
    status, table, result = check("--only", *FIGURES)
    assert result["failed"] == [] and status == 0, result
    assert set(result["sections"]) == set(FIGURES)
    for name, figures in FIGURES.items():
        values = result["sections"][name]
        assert figures <= set(values)
        assert all(value > 0 for key, value in values.items() if key in figures and key != "backend")
        assert sum(line.startswith(f"{name} ") for line in table) == len(values)
    assert result["sections"]["faiss"]["flat recall@10"] == 1
    assert result["sections"]["precision"]["bf16 least cosine"] > 0.99
    assert result["machine"]["device"] == "cpu"


def test_the_flags_of_the_jobs(tmp_path):
    commands = list_commands(Check("cpu", SMALL, tmp_path))
    assert list(commands) == ["embed", "mine", "train", "evaluate", "rank"]
    for name, flags in commands.items():
        config = parse_config(JOBS[name].load_config(), flags, name=name)
        assert str(config.output).startswith(str(tmp_path))


def test_a_section_that_fails_does_not_end_the_others():
    """Without a GPU, those that need one fail, and FAISS names what is missing."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--small", "--only", "faiss", "ddp"], capture_output=True, text=True, cwd=ROOT
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert result["failed"] == ["faiss", "ddp"]
    assert result["sections"]["faiss"]["error"].endswith("FAISS sees no GPU: install xmrank[gpu], which has faiss-gpu")
    assert result["sections"]["ddp"]["error"]
