"""The page that compares experiments: from their reports alone."""

import dataclasses

import pytest
from browser import find_browser, open_browser

from xmrank.config import ReportConfig
from xmrank.report.experiment_comparison import MARKDOWN, PAGE
from xmrank.report.stage import report
from xmrank.runtime.errors import ConfigError, DataError

from .synthetic import World, make_run

SMALL = World(images=12, seeds=(0,), losses=("listnet",), epochs=2, pictures=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two experiments with their reports, of different losses and numbers of epochs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, world in (
        ("short", SMALL),
        ("long", dataclasses.replace(SMALL, epochs=4, losses=("listnet", "ranknet"))),
    ):
        report(dataclasses.replace(make_run(folder / name, world), draws=200))
    return folder


@pytest.fixture(scope="module")
def compared(runs):
    config = ReportConfig(compare=(runs / "short", runs / "long"), output=runs / "compared", title="Short or long")
    return config, report(config)


def test_the_tables_have_the_rows_of_all_experiments(runs, compared):
    text = (runs / "compared" / MARKDOWN).read_text()
    tables = text.split("### ")[1:]
    assert [table.partition("\n")[0] for table in tables] == [
        f"{protocol}: {direction}"
        for protocol in ("Candidate lists", "Full gallery, top 20 re-ranked")
        for direction in ("image → text", "text → image")
    ]
    for table in tables:
        rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
        assert rows[2:] == [
            "short: First stage",
            "short: ListNet",
            "long: First stage",
            "long: ListNet",
            "long: RankNet",
        ]


def test_the_settings_that_differ_are_named_and_no_others(runs, compared):
    section = (runs / "compared" / MARKDOWN).read_text().split("## Settings that differ")[1].split("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows == ["| rankers.epochs | 2 | 4 |", "| rankers.losses | listnet | listnet, ranknet |"]


def test_a_second_run_keeps_the_page_and_a_changed_experiment_is_refused(runs, compared):
    config, manifest = compared
    written = (runs / "compared" / PAGE).stat().st_mtime_ns
    assert report(config) == manifest and (runs / "compared" / PAGE).stat().st_mtime_ns == written
    with pytest.raises(DataError, match="--overwrite to redo it"):
        report(dataclasses.replace(config, compare=(runs / "long", runs / "short")))


def test_reports_may_lie_alone(runs, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(runs / "short" / "report")
    report(ReportConfig(compare=(tmp_path / "a", tmp_path / "b"), output=tmp_path / "out"))
    assert "## Settings that differ\n\nNone." in (tmp_path / "out" / MARKDOWN).read_text()


def test_what_cannot_be_compared_is_one_line(runs, tmp_path):
    with pytest.raises(ConfigError, match="expected at least two experiments"):
        ReportConfig(compare=(runs / "short",))
    with pytest.raises(DataError, match="no finished output of the stage report here"):
        report(ReportConfig(compare=(runs / "short", tmp_path), output=tmp_path / "out"))
    with pytest.raises(DataError, match="two experiments are called short; rename a directory"):
        report(ReportConfig(compare=(runs / "short", runs / "short"), output=tmp_path / "out"))


@pytest.mark.skipif(find_browser() is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens(runs, compared, tmp_path, width):
    url = (runs / "compared" / PAGE).as_uri()
    with open_browser(find_browser(), tmp_path) as page:
        page.open(url, width)
        assert (page.trouble, page.requests) == ([], [url])
        assert page.value("document.documentElement.scrollWidth") == width
        assert page.value("document.querySelectorAll('.gains svg').length") == 4
        assert page.value("document.querySelector('h1').innerText") == "Short or long"
