"""The house rules of the package: where code lives, what may import what, names and words."""

import ast
import collections
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmrank.config.jobs import JOBS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xmrank"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "jobs").glob("*.py"))

LEVELS = [
    {"losses", "rankers", "metrics"},
    {"runtime"},
    {"config"},
    {"tracking", "datasets"},
    {"pages"},
    {"embed"},
    {"mine"},
    {"protocols"},
    {"train"},
    {"baselines"},
    {"supervised"},
    {"tune", "evaluate"},
    {"rank"},
    {"register"},
    {"report", "qrels", "sentences", "train_encoder"},
    {"hub"},
    {"experiment"},
    {"input_checks"},
    {"dry_run"},
    {"cli", "__init__"},
    {"__main__"},
]
"""Rooms from the lowest to the highest. A module imports its own room and lower ones; leaves import no other room."""
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
DECLARATIONS = {"reader_settings", "baseline_settings"}
"""Modules of dataclasses and nothing else, which configurations are put together from."""
REPEATED_MODULES = {"__init__", "stage", "ray"}
RULED_OUT = (
    r"slates?|pupils?|learners?|enrol\w*|graduates?|drawers?|rivals?|verdicts?|judges?|judged|courses?"
    r"|places?|asks?|asked"
)
"""Words that design has a better one for, as whole words or as parts of an identifier."""


def room_of(path: Path) -> str:
    """The room of a module: its folder in the package, or its own name at the top."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported_modules(path: Path) -> Iterator[str]:
    """Modules of the package that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "xmrank":
            if node.module == "xmrank":
                yield from (f"xmrank.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("xmrank."))


def words_of(text: str) -> list[str]:
    """The words of a text, identifiers parted at underscores and capitals."""
    # An operation on a tensor, Pillow's argument, or "instead"; Optuna's method.
    text = re.sub(r"\bin[ _]place\b|\bstudy\.ask\(", "", text)
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text)
    return re.findall(r"[a-z]+", parted.lower())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = room_of(path)
    for module in imported_modules(path):
        other = module.split(".")[1]
        if other in (own, "__version__") or (own == "config" and module.split(".")[-1] in DECLARATIONS):
            continue
        assert LEVEL_OF[other] < LEVEL_OF[own], f"{own} imports {module}"


def test_only_ray_modules_and_the_runtime_import_ray():
    importing = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == "ray" for name in names):
                importing.add(path)
    strangers = [path for path in importing if path.stem != "ray" and room_of(path) != "runtime"]
    assert not strangers


def test_every_job_has_its_stage():
    for job in SCRIPTS:
        assert (PACKAGE / job.stem / "stage.py").is_file()
        assert f'run_job("{job.stem}")' in job.read_text()
        assert JOBS[job.stem].load_stage().__module__ == f"xmrank.{job.stem}.stage"


def test_no_two_classes_or_modules_share_a_name():
    classes = collections.Counter()
    for path in MODULES:
        classes.update(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    stems = [path.stem for path in MODULES if room_of(path) != "config"]
    modules = collections.Counter(stem for stem in stems if stem not in REPEATED_MODULES)
    assert [name for name, count in (classes | modules).items() if count > 1] == []


def test_every_room_has_its_tests():
    rooms = {room_of(path) for path in MODULES if path.parent != PACKAGE}
    tested = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert rooms - {"config"} == tested - {"config"}


def test_words_that_have_a_better_one_are_not_used():
    texts = [*MODULES, *SCRIPTS, *PACKAGE.rglob("*.jinja"), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    used = {
        f"{path.relative_to(ROOT)}: {word}"
        for path in texts
        for word in words_of(path.read_text())
        if re.fullmatch(RULED_OUT, word)
    }
    assert sorted(used) == []


@pytest.mark.parametrize("module", ["xmrank", *(f"xmrank.config.{p.stem}" for p in (PACKAGE / "config").glob("*.py"))])
def test_configurations_import_neither_torch_nor_ray(module):
    heavy = "{'torch', 'ray', 'faiss', 'mlflow'} & set(sys.modules)"
    code = f"import sys, {module.removesuffix('.__init__')}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
