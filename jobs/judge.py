"""Measure an evaluation's rankings by more judgements than one caption's own image: qrels files, class labels.

    python jobs/judge.py --embeddings runs/demo/embeddings --results runs/demo/evaluation --plausible \\
        --output runs/demo/judged
"""

from xmrank.commandline import run
from xmrank.config import JudgeConfig
from xmrank.ranking.judge import judge

if __name__ == "__main__":
    run(judge, JudgeConfig)
