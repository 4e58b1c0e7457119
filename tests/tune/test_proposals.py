"""Optuna's proposals on disk: what is proposed after an interruption, with one point at a time and with several."""

import json

from xmrank.tune.proposals import ProposalStudy
from xmrank.tune.space import NumberRange

SPACE = {"rate": NumberRange(1e-4, 1.0, True), "width": [32, 64], "drop": NumberRange(0.0, 0.5, False)}


def tell_all(study, count):
    for _ in range(count):
        number, settings = study.propose()
        study.tell(number, -abs(settings["drop"] - 0.2))


def test_proposals_are_in_the_space_and_those_of_a_seed(tmp_path):
    studies = [ProposalStudy(tmp_path / f"{number}.json", SPACE, seed) for number, seed in enumerate([3, 3, 4])]
    for study in studies:
        tell_all(study, 12)
    first, second, other = (study.proposals for study in studies)
    assert first == second and first != other
    assert all(1e-4 <= p.settings["rate"] <= 1 and p.settings["width"] in (32, 64) for p in first)
    assert len({json.dumps(p.settings) for p in first}) == 12
    # After ten random ones, the model finds that 0.2 is best.
    tell_all(studies[0], 18)
    distances = [abs(p.settings["drop"] - 0.2) for p in studies[0].proposals]
    assert sum(distances[20:]) < 0.7 * sum(distances[:10])


def test_points_in_work_at_an_interruption_are_proposed_first(tmp_path):
    study = ProposalStudy(tmp_path / "study.json", SPACE, 0)
    in_work = [study.propose() for _ in range(3)]
    study.tell(1, 0.5)
    study.tell(2, None)  # its process was lost too often
    again = ProposalStudy(tmp_path / "study.json", SPACE, 0)
    assert [p.value for p in again.proposals] == [None, 0.5, None]
    assert [again.propose() for _ in range(2)] == [in_work[0], in_work[2]]
    number, settings = again.propose()
    assert number == 3 and settings not in [settings for _, settings in in_work]
    again.tell(0, 0.25)
    assert [p.value for p in ProposalStudy(tmp_path / "study.json", SPACE, 0).proposals] == [0.25, 0.5, None, None]
