"""docs/scale.md holds the tables that the script makes, and the script does the arithmetic that the page names."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script():
    return runpy.run_path(str(ROOT / "benchmarks" / "scale_estimate.py"))


def test_the_page_has_the_tables_of_the_script(script):
    rate = {name: entry.value for name, entry in script["RATES"].items()}
    page = (ROOT / "docs" / "scale.md").read_text()
    for name in ("make_time_table", "make_size_table", "make_rate_table"):
        assert "\n".join(script[name](rate)) in page


def test_embedding_by_hand(script):
    """10,240 pairs on 2 GPUs: 10 s of start, 51.2 s of images, 10.24 of captions, 40 shards of 1 s, 2,097,152 bytes.

    Where only one shard in 2 s is handed out, the 40 shards take 80 s, and the GPUs wait.
    """
    rate = dict.fromkeys(script["RATES"], 1.0)
    rate |= {"start": 10, "gpu_images": 100, "gpu_captions": 500, "driver_shard": 1, "hash": 20_971_520}
    rate |= {"shard": 512, "handed_out": 10}
    seconds = script["estimate_seconds"](10_240, 2, rate)["embed"]
    assert seconds == pytest.approx(10 + 51.2 + 10.24 + 40 + 1)
    seconds = script["estimate_seconds"](10_240, 2, rate | {"handed_out": 0.5})["embed"]
    assert seconds == pytest.approx(10 + 80 + 40 + 1)
