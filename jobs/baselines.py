"""Fit baselines on paired data and evaluate them on the same lists and galleries as the rankers.

python jobs/baselines.py --embeddings runs/demo/embeddings --lists runs/demo/lists --output runs/demo/baselines
"""

from xmrank.commandline import run
from xmrank.config import BaselinesConfig
from xmrank.ranking.baselines import baselines

if __name__ == "__main__":
    run(baselines, BaselinesConfig)
