"""Run a whole experiment: embed, mine, train, evaluate, report.

python jobs/experiment.py --preset demo
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("experiment")
