"""The results of drills as a Markdown table."""

import math
from typing import Any

from benchmarks.drills.drill_faults import FAULTS, nothing


def make_table(results: list[dict[str, Any]]) -> str:
    """One row for each fault and outcome, with the stages that had it."""
    lines = [
        "| fault | stages | outcome | finished pieces made again | data lost |",
        "|---|---|---|---:|---:|",
    ]
    for name, fault in FAULTS.items():
        groups: dict[str, list[dict[str, Any]]] = {}
        for result in results:
            if result["fault"] == name:
                groups.setdefault(describe_outcome(result), []).append(result)
        for outcome, group in groups.items():
            stages = ", ".join(result["stage"] for result in group)
            twice = sum(result["pieces_twice"] or 0 for result in group)
            pieces = sum(result["pieces"] for result in group)
            lost = sum(not result["same"] for result in group)
            lines.append(f"| {fault.title} | {stages} | {outcome} | {twice} of {pieces} | {lost} |")
    return "\n".join(lines)


def describe_outcome(result: dict[str, Any]) -> str:
    """What came of a drill, in words."""
    statuses = result["statuses"]
    if missed_work(result):
        return "nothing is shown: the stage was not at work"
    if result.get("hung"):
        text = "hangs"
    elif "second_status" in result:
        refused = result["second_status"] == 1
        text = "the second is refused in one line" if refused else "the first was done before the second began"
    elif statuses[0] == 0:
        text = "goes on by itself"
    else:
        again = "same command continues" if len(statuses) == 2 else f"the command runs {len(statuses)} times"
        text = f"exit status {statuses[0]}, {again}"
    return f"{text}, {'same' if result['same'] else '**another**'} fingerprint"


def missed_work(result: dict[str, Any]) -> bool:
    """Whether a fault came before the first piece was done, or after the last one."""
    if FAULTS[result["fault"]].inject is nothing:
        return False
    # An experiment goes on with other stages when its rankers, of which a piece was done, are all there.
    last = result["pieces"] if result["stage"] != "experiment" else math.inf
    at_work = not result["pieces"] or 0 < result["pieces_at_fault"] < last
    return not (result["running"] and at_work)
