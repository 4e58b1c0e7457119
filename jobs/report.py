"""Make the table and the page of an evaluation.

python jobs/report.py --evaluation runs/default/evaluation --output runs/default/report
"""

from xmrank.cli import run
from xmrank.config import ReportConfig
from xmrank.report.stage import report

if __name__ == "__main__":
    run(report, ReportConfig)
