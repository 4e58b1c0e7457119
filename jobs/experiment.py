"""Run a whole experiment: embed, mine, train, evaluate, report.

python jobs/experiment.py --preset demo
"""

from xmrank.cli import run
from xmrank.config import ExperimentConfig
from xmrank.experiment.stage import experiment

if __name__ == "__main__":
    run(experiment, ExperimentConfig)
