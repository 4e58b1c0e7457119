"""Evaluate the first stage and the trained rankers on the same lists and galleries.

    python jobs/evaluate.py --embeddings runs/demo/embeddings --lists runs/demo/lists --rankers runs/demo/rankers \\
        --output runs/demo/evaluation
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("evaluate")
