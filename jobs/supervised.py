"""Supervised cross-modal retrieval: LCM and its peers on labelled sets, with and without two-stage search.

python jobs/supervised.py --data wikipedia=data/wikipedia --output runs/supervised
"""

from xmrank.cli import run
from xmrank.config import SupervisedConfig
from xmrank.supervised.page import supervised_and_report

if __name__ == "__main__":
    run(supervised_and_report, SupervisedConfig)
