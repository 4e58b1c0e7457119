"""Supervised cross-modal retrieval: LCM and its peers on labelled sets, with and without two-stage search.

python jobs/supervised.py --data wikipedia=data/wikipedia --output runs/supervised
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("supervised")
