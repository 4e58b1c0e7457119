"""Register the best ranker of each direction of a training with MLflow.

python jobs/register.py --rankers runs/demo/rankers --name flickr
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("register")
