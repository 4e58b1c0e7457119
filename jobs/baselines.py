"""Fit baselines on paired data and evaluate them on the same lists and galleries as the rankers.

python jobs/baselines.py --embeddings runs/demo/embeddings --lists runs/demo/lists --output runs/demo/baselines
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("baselines")
