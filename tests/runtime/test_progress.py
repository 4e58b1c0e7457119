"""The progress line: counts, rate, time left, workers, restarts, cost; and what a stage waits for if nothing moves."""

import io
import re
import sys
import threading
import time
import types

import pytest

from xmrank.runtime import progress as module
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.progress import Progress, describe_cluster, read_cost_per_hour, show_activity, show_restart


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.delenv(module.COST_VARIABLE, raising=False)
    return now


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_line_has_rate_time_left_workers_restarts_cost_and_failures(clock, capsys, monkeypatch):
    monkeypatch.setenv(module.COST_VARIABLE, "3.6")
    with Progress("embed", 1000, done=100) as progress:
        show_activity("shards", workers=4)
        show_restart()
        clock.seconds += 100
        progress.advance(200, note="3 broken")
        # 200 in 100 s; 700 are left; 100 s at 3.6 an hour.
        assert lines_of(capsys) == [
            "embed: 100 of 1,000 done before",
            "embed: 300/1,000, 1 min 40 s, 5 min 50 s left, 2/s, 4 workers, 1 restart, cost 0.10, 3 broken",
        ]


def test_what_is_not_known_is_left_out(clock, capsys):
    with Progress("mine", 10) as progress:
        clock.seconds += 10
        progress.advance(10)
    # The last line is not printed again at the end.
    assert lines_of(capsys) == ["mine: 10/10, 10 s, 1/s"]


def test_what_was_not_shown_is_shown_at_the_end(clock, capsys):
    with Progress("mine", 10) as progress:
        clock.seconds += 4
        progress.advance(10)
        assert lines_of(capsys) == []
    assert lines_of(capsys) == ["mine: 10/10, 4 s, 2.5/s"]


def last_line(progress, clock, capsys, *steps):
    """The line after steps, each of so many seconds and items."""
    for seconds, items in steps:
        clock.seconds += seconds
        progress.advance(items)
    return lines_of(capsys)[-1]


def test_the_time_left_is_that_of_the_recent_rate(clock, capsys):
    with Progress("train", 10_000) as progress:
        # 100 items in 400 s, then 10 a second for 600 s: those of the last quarter of 1,000 s alone count.
        line = last_line(progress, clock, capsys, *[(4, 1)] * 100, *[(1, 10)] * 540, (60, 600))
        assert line == "train: 6,100/10,000, 16 min 40 s, 6 min 30 s left, 10/s"
        progress.advance(3900)
    # At the end it is the rate of all: 10,000 in 1,000 s.
    assert lines_of(capsys) == ["train: 10,000/10,000, 16 min 40 s, 10/s"]


def test_the_start_of_processes_does_not_count_once_there_are_some_items(clock, capsys):
    with Progress("train", 100) as progress:
        # 50 s until the first item, then one every 2 s.
        assert "12 min 15 s left" not in last_line(progress, clock, capsys, (50, 1), *[(2, 1)] * 5)
        line = last_line(progress, clock, capsys, (10, 5))
        # 10 items in 20 s, since the first; 89 are left.
        assert line == "train: 11/100, 1 min 10 s, 2 min 58 s left, 30/min"


def test_items_of_one_moment_have_no_rate(clock, capsys):
    with Progress("train", 10) as progress:
        progress.advance(10)
    assert lines_of(capsys) == ["train: 10/10, 0 s"]


def test_before_the_first_item_a_line_says_what_it_waits_for(clock, capsys):
    with Progress("train", 10) as progress:
        show_activity("the workers of a Ray Train run", 2)
        assert last_line(progress, clock, capsys, (60, 0)) == (
            "train: 0/10, 1 min, waiting for the workers of a Ray Train run, 2 workers"
        )


def test_looks_at_which_nothing_has_moved_are_not_shown(clock, capsys):
    with Progress("train", 10) as progress:
        for _ in range(118):
            clock.seconds += 1
            progress.advance(0, note="word detection")
        # The note is new at first, and then there is a line a minute.
        assert lines_of(capsys) == ["train: 0/10, 1 min, word detection"]
    assert lines_of(capsys) == []


def test_a_slow_item_slows_the_rate(clock, capsys):
    with Progress("search", 10) as progress:
        line = last_line(progress, clock, capsys, (100, 1), (100, 1))
        assert "13 min 20 s left" in line
        # 2 items in 400 s, where the next has not come for 200 s.
        assert "26 min 40 s left" in last_line(progress, clock, capsys, (200, 0))


def test_a_line_comes_although_nothing_is_done(monkeypatch, capsys):
    monkeypatch.setattr(module, "LONGEST_PERIOD_S", 0.3)
    with Progress("search", 10):
        show_activity("the results of points", 2)
        for line in wait_for_lines(capsys, 2):
            assert re.fullmatch(r"search: 0/10, \d+ s, waiting for the results of points, 2 workers", line)


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self):
        return True


def test_a_bar_has_the_same_numbers(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")
    with Progress("embed", 100_000) as progress:
        clock.seconds += 2
        progress.advance(21_700, note="3 broken")
    assert "21,700/100,000" in screen.getvalue() and "2 s, 7 s left, 10,850/s, 3 broken" in screen.getvalue()


def test_lines_come_less_often_in_a_long_run(clock, capsys):
    with Progress("train", 10_000) as progress:
        for _ in range(1200):
            clock.seconds += 1
            progress.advance()
        first = lines_of(capsys)
        clock.seconds += 3600
        progress.advance()
        lines_of(capsys)
        for _ in range(600):
            clock.seconds += 1
            progress.advance()
        # One a minute, not one in five seconds.
        assert len(lines_of(capsys)) == 10
    assert [line.split(", ")[1] for line in first[:4]] == ["5 s", "10 s", "15 s", "20 s"]
    assert len(first) < 1200 / 15


@pytest.mark.parametrize("price", ["-1", "much", "inf", "nan"])
def test_a_wrong_price_is_named(monkeypatch, price):
    monkeypatch.setenv(module.COST_VARIABLE, price)
    with pytest.raises(ConfigError, match=f"^XMRANK_COST_PER_HOUR={price}: expected the price"):
        read_cost_per_hour()


def wait_for_lines(capsys, count):
    """The first lines that appear, within some seconds."""
    lines = []
    deadline = time.monotonic() + 20
    while len(lines) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
        lines += lines_of(capsys)
    return lines


def test_a_stall_is_said_with_what_it_waits_for_and_again_after_as_long(monkeypatch, capsys):
    monkeypatch.setattr(module, "STALL_S", 0.3)
    monkeypatch.setattr(module, "describe_cluster", lambda: "the cluster has 1 node, 0 of 2 CPUs free")
    started = time.monotonic()
    with Progress("train", 10):
        show_activity("room for 4 workers", 0)
        first, second = wait_for_lines(capsys, 2)[:2]
        assert time.monotonic() - started > 0.6
    expected = "train: no progress for 0 min, waiting for room for 4 workers; the cluster has 1 node, 0 of 2 CPUs free"
    assert first == second == expected


def test_whatever_moves_is_no_stall(monkeypatch, capsys):
    monkeypatch.setattr(module, "STALL_S", 2)
    with Progress("train", 100) as progress:
        for _ in range(30):
            time.sleep(0.1)
            progress.advance()
        assert not [line for line in lines_of(capsys) if "no progress" in line]


def test_an_advance_by_nothing_is_no_progress(monkeypatch, capsys):
    """The watcher of a training looks each second, whether an epoch is done or not."""
    monkeypatch.setattr(module, "STALL_S", 0.3)
    with Progress("train", 100) as progress:
        for _ in range(10):
            time.sleep(0.1)
            progress.advance(0)
        assert [line for line in lines_of(capsys) if "no progress" in line]


def test_another_note_is_progress(monkeypatch, capsys):
    monkeypatch.setattr(module, "STALL_S", 2)
    with Progress("search", 100) as progress:
        for epoch in range(30):
            time.sleep(0.1)
            progress.advance(0, note=f"epoch {epoch}")
        assert not [line for line in lines_of(capsys) if "no progress" in line]


def test_activity_goes_to_the_innermost_progress_and_nowhere_without_one():
    show_activity("nothing", 3)
    show_restart()
    with Progress("outer", 1) as outer:
        with Progress("inner", 1) as inner:
            show_activity("tasks", 2)
        assert (inner.activity, inner.workers, outer.activity, outer.workers) == ("tasks", 2, "", 0)
        show_activity("fits")
        assert (outer.activity, outer.workers) == ("fits", 0)
    assert Progress.current is None


def test_the_device_is_said_once_and_again_when_it_changes(clock, capsys, monkeypatch):
    monkeypatch.setattr(Progress, "said", "")
    for label in ("embed", "train"):
        with Progress(label, 1):
            show_activity("shards", 2, "cpu")
            show_activity("shards", 2, "cpu")
    with Progress("rank", 1):
        show_activity("batches", 1, "cuda")
    assert [line for line in lines_of(capsys) if "device" in line] == [
        "embed: device cpu, 2 workers",
        "rank: device cuda, 1 worker",
    ]


def fake_ray(query=lambda: {"CPU": 2.0}):
    return types.SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=query,
        available_resources=dict,
        nodes=lambda: [{"Alive": True}, {"Alive": False}],
    )


def test_the_cluster_is_described_by_what_is_free(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    assert describe_cluster() == "the cluster has 1 node, 0 of 2 CPUs free"


def test_a_cluster_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    never = threading.Event()
    monkeypatch.setitem(sys.modules, "ray", fake_ray(lambda: {"CPU": float(never.wait())}))
    assert describe_cluster() == "the cluster does not answer"
    never.set()


def test_a_cluster_that_is_gone_is_no_error(monkeypatch):
    def fail():
        raise ConnectionError("no head")

    monkeypatch.setitem(sys.modules, "ray", fake_ray(fail))
    assert describe_cluster() == "the cluster does not answer"
