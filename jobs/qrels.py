"""Measure an evaluation's rankings by more judgements than one caption's own image: qrels files, class labels.

    python jobs/qrels.py --embeddings runs/demo/embeddings --results runs/demo/evaluation --plausible \\
        --output runs/demo/qrels
"""

from xmrank.cli import run
from xmrank.config import QrelsConfig
from xmrank.qrels.stage import evaluate_qrels

if __name__ == "__main__":
    run(evaluate_qrels, QrelsConfig)
