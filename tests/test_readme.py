"""The Python code of the README and the guide runs as it is, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLAIM = re.compile(r"first for (\d+) % of the captions, the ranker for (\d+) %")


def run_blocks(document, folder):
    """Run the Python blocks of a document, one after another in one process; returns what they print."""
    code = "\n".join(PYTHON_BLOCK.findall(document.read_text()))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "it leaves files behind"
    return done.stdout


def test_the_python_code_of_the_readme_gives_what_the_text_says(tmp_path):
    printed = [100 * float(line) for line in run_blocks(ROOT / "README.md", tmp_path).split()]
    # Another processor adds in another order, which may move the trained ranker a little.
    claimed = [float(number) for number in CLAIM.search((ROOT / "README.md").read_text()).groups()]
    assert printed == pytest.approx(claimed, abs=4)


def test_the_python_code_of_the_guide_runs(tmp_path):
    printed = run_blocks(ROOT / "docs" / "guide" / "python.md", tmp_path).splitlines()
    # The relevant item is second in the first list, and first in the second one.
    # Of q1's two relevant items one is retrieved; its rank is 2, and q2's is 1 or 2: (1/2 + (1 + 1/2) / 2) / 2.
    assert printed == ["[0. 1.]", "[0.5 1. ] 0.625"]
