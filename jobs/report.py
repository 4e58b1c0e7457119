"""Make the table and the page of an evaluation.

python jobs/report.py --evaluation runs/default/evaluation --output runs/default/report
"""

from xmrank.commandline import run
from xmrank.config import ReportConfig
from xmrank.report import report

if __name__ == "__main__":
    run(report, ReportConfig)
