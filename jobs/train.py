"""Train a ranker for every loss, direction and seed.

python jobs/train.py --embeddings runs/demo/embeddings --lists runs/demo/lists --output runs/demo/rankers
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("train")
