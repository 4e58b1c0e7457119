"""A job's screen has the lines of xmrank and no others: no noise of Ray's native code, of Ray Data or of MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZES = {"train": 40, "val": 10, "test": 10}


@pytest.mark.own_ray
def test_embed_shows_its_own_lines_only(tmp_path):
    """Ray Data keeps what its actors start from in the object store: Ray's native code calls that an error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XMRANK_", "MLFLOW_"))}
    sizes = [word for name, count in SIZES.items() for word in (f"--scenes.{name}", str(count))]
    done = subprocess.run(
        [sys.executable, ROOT / "jobs/embed.py", "--dataset", "scenes", *sizes, "--output", tmp_path / "embeddings"],
        env=kept | {"XMRANK_HOME": str(tmp_path), "XMRANK_COST_PER_HOUR": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith(("embed", "scenes"))] == []
    assert any("worker" in line and "cost 0." in line for line in lines)
