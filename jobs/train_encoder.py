"""Train xmrank-tiny on generated web-like pictures, or on scenes (--distribution scenes).

python jobs/train_encoder.py --output runs/encoder
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("train_encoder")
