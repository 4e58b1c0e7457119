"""Supervised cross-modal retrieval: LCM and its peers on labelled sets, with and without two-stage search.

python jobs/supervised.py --data wikipedia=data/wikipedia --output runs/supervised
"""

from xmrank.commandline import run
from xmrank.config import SupervisedConfig
from xmrank.report.supervised import supervised_and_report

if __name__ == "__main__":
    run(supervised_and_report, SupervisedConfig)
