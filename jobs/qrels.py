"""Measure an evaluation's rankings by more judgements than one caption's own image: qrels files, class labels.

    python jobs/qrels.py --embeddings runs/demo/embeddings --results runs/demo/evaluation --plausible \\
        --output runs/demo/qrels
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("qrels")
