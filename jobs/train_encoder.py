"""Train the bundled encoder xmrank-tiny on generated scenes; under an hour on 2 cores.

python jobs/train_encoder.py --output runs/encoder
cp runs/encoder/xmrank-tiny.safetensors xmrank/embed/bundled/
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("train_encoder")
