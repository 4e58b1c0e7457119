"""Where relative paths lead."""

from pathlib import Path

import pytest

from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import resolve
from xmrank.runtime.remote_path import RemotePath


@pytest.fixture
def job_copy(tmp_path, monkeypatch):
    """The current directory of a job that Ray runs: its temporary copy of the code."""
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("XMRANK_HOME", raising=False)
    return folder


def test_relative_paths_lead_to_the_home(home):
    assert resolve("runs/demo") == home / "runs" / "demo"
    assert resolve(Path("runs/demo")) == home / "runs" / "demo"


def test_without_a_home_they_start_from_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("XMRANK_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve("runs") == tmp_path / "runs"


def test_a_relative_home_starts_from_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XMRANK_HOME", "experiments")
    monkeypatch.chdir(tmp_path)
    assert resolve("runs") == tmp_path / "experiments" / "runs"


def test_absolute_paths_stay(home):
    assert resolve("/data/runs") == Path("/data/runs")
    assert resolve("~/runs") == Path.home() / "runs"


@pytest.mark.parametrize("uri", ["s3://bucket/run", Path("s3://bucket/run"), RemotePath("s3://bucket/run")])
def test_a_uri_is_a_path_in_its_store(home, uri):
    assert resolve(uri) == RemotePath("s3://bucket/run")
    assert str(resolve(uri) / "manifest.json") == "s3://bucket/run/manifest.json"


def test_a_uri_of_this_machine_is_a_path(home):
    assert resolve("file:///data/runs") == resolve(Path("file:///data/runs")) == Path("/data/runs")


def test_a_home_is_a_folder(home, monkeypatch):
    monkeypatch.setenv("XMRANK_HOME", "s3://bucket/run")
    with pytest.raises(ConfigError, match=r"^XMRANK_HOME s3://bucket/run: expected a folder"):
        resolve("runs")


def test_the_home_of_an_unknown_user_is_one_line(home, monkeypatch):
    with pytest.raises(ConfigError, match=r"^~nouserx/x: there is no home directory of ~nouserx"):
        resolve("~nouserx/x")
    monkeypatch.setenv("XMRANK_HOME", "~nouserx")
    with pytest.raises(ConfigError, match=r"^~nouserx: there is no home directory of ~nouserx"):
        resolve("runs")


@pytest.mark.parametrize("path", ["runs/a:b", "a:b/c", "C:/run"])
def test_a_colon_makes_no_uri(home, path):
    assert resolve(path) == home / path


def test_a_relative_path_in_the_copy_of_a_job_is_refused(job_copy):
    with pytest.raises(ConfigError, match="set XMRANK_HOME to a folder that all nodes share, or give absolute paths"):
        resolve("runs/demo")
    assert resolve("/shared/runs") == Path("/shared/runs")


def test_a_home_helps_in_the_copy_of_a_job(job_copy, monkeypatch, tmp_path):
    monkeypatch.setenv("XMRANK_HOME", str(tmp_path / "shared"))
    assert resolve("runs") == tmp_path / "shared" / "runs"


def test_a_relative_home_in_the_copy_of_a_job_is_refused(job_copy, monkeypatch):
    monkeypatch.setenv("XMRANK_HOME", "shared")
    with pytest.raises(ConfigError, match="XMRANK_HOME"):
        resolve("runs")
