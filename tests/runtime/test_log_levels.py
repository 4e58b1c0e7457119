"""Which messages are shown, of xmrank and of the libraries below it."""

import logging
import os
import subprocess
import sys

import pytest

from xmrank.runtime.log_levels import drop_notice, is_verbose, start_logging


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The root logger and the environment as they were."""
    level = logging.getLogger().level
    for name in ("MLFLOW_LOGGING_LEVEL", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize(
    ("level", "mlflow", "ray", "verbose"),
    [
        ("debug", "DEBUG", "debug", True),
        ("info", "INFO", "info", True),
        ("warning", "WARNING", "fatal", False),
        ("error", "ERROR", "fatal", False),
    ],
)
def test_libraries_follow(level, mlflow, ray, verbose):
    start_logging(level)
    assert logging.getLogger().level == getattr(logging, level.upper())
    assert (os.environ["MLFLOW_LOGGING_LEVEL"], os.environ["RAY_BACKEND_LOG_LEVEL"]) == (mlflow, ray)
    assert is_verbose() == verbose


def test_the_users_own_levels_stay(monkeypatch):
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "warning")
    start_logging("error")
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "warning"


def test_rays_notice_is_left_out_and_all_else_is_shown_also_after_an_error(capfd):
    with pytest.raises(ValueError), drop_notice():  # noqa: PT012
        os.write(2, b"[2026-11-30 I 1 1] logging.cc:303: Set ray log level from environment variable ")
        os.write(2, b"RAY_BACKEND_LOG_LEVEL to 3\nno space left\n")
        raise ValueError
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "no space left\nlater\n"


@pytest.mark.parametrize(("level", "shown"), [("warning", False), ("info", True)])
def test_a_new_database_is_made_without_a_word_unless_wanted(level, shown, tmp_path):
    code = f"""
        from xmrank.runtime.log_levels import start_logging
        start_logging({level!r})
        from xmrank.tracking.runs import connect_tracking
        connect_tracking()
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "XMRANK_"))}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
        env=kept | {"XMRANK_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "mlflow.db").exists()
    assert bool(done.stdout + done.stderr) == shown
    assert ("INFO" in done.stderr) == shown
