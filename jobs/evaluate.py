"""Evaluate the first stage and the trained rankers on the same lists and galleries.

    python jobs/evaluate.py --embeddings runs/demo/embeddings --lists runs/demo/lists --rankers runs/demo/rankers \\
        --output runs/demo/evaluation
"""

from xmrank.commandline import run
from xmrank.config import EvaluateConfig
from xmrank.ranking.evaluate import evaluate

if __name__ == "__main__":
    run(evaluate, EvaluateConfig)
