"""Search settings: of rankers, and train the best ones with several seeds; or of baselines; or of LCM.

python jobs/tune.py --preset grid12 --embeddings runs/demo/embeddings --lists runs/demo/lists --output runs/demo/tuned
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("tune")
