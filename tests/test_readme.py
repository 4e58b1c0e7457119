"""The Python code of the README runs as it is, in a process of its own, and gives what the text says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLAIM = re.compile(r"first for (\d+) % of the captions, the ranker for (\d+) %")


def test_the_python_code_of_the_readme_gives_what_the_text_says(tmp_path):
    readme = (ROOT / "README.md").read_text()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "\n".join(PYTHON_BLOCK.findall(readme))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [100 * float(line) for line in done.stdout.split()]
    # Another processor adds in another order, which may move the trained ranker a little.
    assert printed == pytest.approx([float(number) for number in CLAIM.search(readme).groups()], abs=4)
    assert not list(tmp_path.iterdir()), "it leaves files behind"
