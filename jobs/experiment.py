"""Run a whole experiment: embed, mine, train, evaluate, report.

python jobs/experiment.py --preset demo
"""

from xmrank.commandline import run
from xmrank.config import ExperimentConfig
from xmrank.experiment import experiment

if __name__ == "__main__":
    run(experiment, ExperimentConfig)
