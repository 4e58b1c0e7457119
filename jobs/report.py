"""Make the table and the page of an evaluation.

python jobs/report.py --evaluation runs/default/evaluation --output runs/default/report
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("report")
