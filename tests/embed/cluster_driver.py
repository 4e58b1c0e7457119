"""The embedding job as a process of its own, whose workers write down what they encode and take their time over it.

    python cluster_driver.py folder log seconds

The cluster is the one that RAY_ADDRESS names.
"""

import sys
import time
from pathlib import Path

from embedding_samples import configured

from xmrank.embed import ray as ray_stage
from xmrank.embed.shards import Shard
from xmrank.embed.stage import embed


def slow_and_written_down(log, seconds):
    """The encoders' class, made here so that it travels to the workers by value."""

    class Logged:
        def __init__(self, *arguments):
            from xmrank.embed.ray import ShardEncoder

            self.encoder = ShardEncoder(*arguments)

        def __call__(self, row):
            if not Shard(**row).report_path(self.encoder.work).exists():
                time.sleep(seconds)
                with Path(log).open("a") as file:
                    file.write(f"{row['kind']}-{row['number']}\n")
            return self.encoder(row)

    return Logged


if __name__ == "__main__":
    folder, log, seconds = sys.argv[1:]
    ray_stage.ShardEncoder = slow_and_written_down(log, float(seconds))
    embed(configured(Path(folder), workers=0))
