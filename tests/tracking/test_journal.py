"""Journals: what is added is read back, whole records only, and nothing twice."""

import math

from xmrank.tracking.journal import Journal


def values(journal, run="run"):
    return [(record["step"], record["metrics"]) for record in journal.records_of(run)]


def test_a_record_that_a_kill_cut_off_costs_no_other(tmp_path):
    journal = Journal(tmp_path, "trial")
    journal.add("run", metrics={"train/loss": 0.5}, step=1)
    with journal.path.open("ab") as file:
        file.write(b'{"run": "half')
    assert values(journal) == [(1, {"train/loss": 0.5})]
    journal.add("run", metrics={"train/loss": 0.25}, step=2)
    assert values(journal) == [(1, {"train/loss": 0.5}), (2, {"train/loss": 0.25})]


def test_a_value_that_an_interrupted_call_added_is_not_added_again(tmp_path):
    journal = Journal(tmp_path, "trial")
    journal.add("other", metrics={"loss": 0.5}, step=1)
    journal.add_new("run", [(1, {"loss": 0.1 + 0.2, "mean": math.nan})])
    journal.add_new("run", [(1, {"loss": 0.1 + 0.2, "mean": math.nan, "hit": 1}), (2, {"loss": 0.1 + 0.2})])
    new = values(journal)[1:]
    assert new == [(1, {"hit": 1.0}), (2, {"loss": 0.1 + 0.2})]
    journal.add_new("run", [(1, {"loss": 0.5})])  # another value is none that was added
    assert values(journal)[-1] == (1, {"loss": 0.5})


def test_a_run_is_open_until_it_ends_and_when_it_is_begun_again(tmp_path):
    journal = Journal(tmp_path, "trial")
    seen = [journal.is_open("run")]
    for change in (
        lambda: journal.add_begin("run", None),
        lambda: journal.add("run", failed=True),
        lambda: journal.add("run", metrics={"loss": 0.5}),
        lambda: journal.add_begin("run", None),
        lambda: journal.add("run", failed=False),
    ):
        change()
        seen.append(journal.is_open("run"))
    assert seen == [True, True, False, False, True, False]


def test_damaged_records_and_marks_cost_no_others(tmp_path):
    journal = Journal(tmp_path, "trial")
    for step in range(3):
        journal.add("a" * 32, metrics={"train/loss": 0.5}, step=step)
    lines = journal.path.read_text().splitlines()
    odd = ["[]", "null", "{}", "\udcff", "[" * 5000, lines[1].replace("step", "other")]
    journal.path.write_text("\n".join([lines[0], *odd, lines[2], ""]), errors="surrogateescape")
    assert [record["step"] for record in journal.records_of("a" * 32)] == [0, 2]
    for text in ("", "x", "-5", "99999999", "1e3"):
        journal.mark.write_text(text)
        assert journal.delivered == 0
        assert not journal.is_delivered
