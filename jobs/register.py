"""Register the best ranker of each direction of a training with MLflow.

python jobs/register.py --rankers runs/demo/rankers --name flickr
"""

from xmrank.cli import run
from xmrank.config import RegisterConfig
from xmrank.register.stage import register

if __name__ == "__main__":
    run(register, RegisterConfig)
