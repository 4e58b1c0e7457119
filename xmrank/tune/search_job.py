"""A search as its processes know it, and the end of points that nothing else ended."""

from dataclasses import dataclass
from pathlib import Path

from xmrank.config import TuneConfig
from xmrank.runtime.errors import DataError
from xmrank.tracking.run_tree import RunTree
from xmrank.tune.points import SearchFolder
from xmrank.tune.proposals import ProposalStudy
from xmrank.tune.search_target import SearchGroup, SearchPoint, SearchTarget


@dataclass(frozen=True)
class SearchJob:
    """All that a worker needs to know.

    Attributes:
        config: of the search.
        target: what is searched.
        points: the folder of the points.
        work: folder for what only an unfinished search needs.
        runs: the search's MLflow runs; a point's are kept in its own folder.
    """

    config: TuneConfig
    target: SearchTarget
    points: SearchFolder
    work: Path
    runs: RunTree

    def open_study(self, group: SearchGroup) -> ProposalStudy:
        """Optuna's study of a group, as an earlier call left it."""
        path = self.work / "proposals" / f"{group.title.replace(' ', '-')}.json"
        return ProposalStudy(path, group.space, self.config.seed)


def close_stopped(job: SearchJob, point: SearchPoint) -> None:
    """Write the result of a point that the scheduler stopped, and end its MLflow run.

    Raises:
        DataError: the point left nothing: it was not stopped after an epoch, but interrupted.
    """
    folder = job.points.folder_of(point)
    outcome = job.target.read_stopped(point, folder)
    if outcome is None:
        raise DataError(f"{folder}: no finished training of {point.name}")
    # At its last report a point was trained to its end, whatever the scheduler then said.
    stopped = outcome.epochs < job.target.count_epochs(point.group)
    job.points.write_outcome(point, outcome, stopped=stopped)
    run = job.runs.branch_off(folder)
    if run.is_open(point.name):
        run.log_metrics(point.name, job.target.describe_outcome(outcome))
    end_point_run(job, folder, failed=False)
    job.target.remove_state(point, folder)


def end_point_run(job: SearchJob, folder: Path, *, failed: bool) -> None:
    """Complete and end the MLflow run of a point that nothing ended: its process may have been killed.

    Args:
        job: the search.
        folder: of the point.
        failed: how it ends.
    """
    run = job.runs.branch_off(folder)
    for key in run.ids:
        if run.is_open(key):
            run.log_history(key, job.target.list_epochs(folder))
    run.end(failed=failed)
