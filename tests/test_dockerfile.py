"""The Dockerfile: no root, and every line of pip finds all it needs, pinned, in an empty environment.

No image is built here: that needs a Docker engine. The lines are resolved by uv, without installing anything.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ").splitlines()
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in LINES if line]
PYTHON = dict(INSTRUCTIONS)["FROM"].removeprefix("python:").removesuffix("-slim")
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


def copy_context(target):
    """What the COPY lines put into the image's folder."""
    for name, words in INSTRUCTIONS:
        if name == "COPY":
            *sources, destination = words.split()
            for source in sources:
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, target / destination)


def pip_commands(faiss):
    """The words of each ``pip install``."""
    commands = [command for name, words in INSTRUCTIONS if name == "RUN" for command in words.split("&&")]
    words = [shlex.split(command.replace("${FAISS}", faiss)) for command in commands]
    return [command for command in words if command[:2] == ["pip", "install"]]


def resolve(words, folder, target):
    """What uv would install for this line of pip into an empty environment: name → version."""
    words = [word for word in words[2:] if word != "--no-cache-dir"]
    command = [UV, "pip", "install", "--dry-run", "--target", target, "--python-version", PYTHON, *words]
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
    if "error sending request" in done.stderr:
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr
    return dict(line[3:].split("==") for line in done.stderr.splitlines() if line.startswith(" + ") and "==" in line)


@pytest.mark.skipif(UV is None, reason="uv is not installed")
@pytest.mark.parametrize("faiss", ["cpu", "gpu"])
def test_every_line_of_pip_resolves_and_all_is_pinned(faiss, tmp_path):
    folder = tmp_path / "image"
    folder.mkdir()
    copy_context(folder)
    pinned = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    dependencies, package = pip_commands(faiss)
    found = resolve(dependencies, folder, tmp_path / "empty")
    assert {f"faiss-{faiss}", "ray", "torch", "boto3"} <= set(found)
    assert {name: release for name, release in found.items() if pinned.get(name) != release} == {}
    # The package itself, from the copied files.
    assert resolve(package, folder, tmp_path / "empty") == {}


def test_pythons_version_is_one_that_the_package_takes():
    assert tuple(map(int, PYTHON.split("."))) in [(3, 11), (3, 12), (3, 13)]


def test_it_does_not_run_as_root():
    users = [words for name, words in INSTRUCTIONS if name == "USER"]
    assert users == ["xmrank"]
    names = [name for name, _ in INSTRUCTIONS]
    assert "RUN" not in names[names.index("USER") :]
    assert any("useradd --create-home --uid 1000 xmrank" in words for _, words in INSTRUCTIONS)


def test_no_secret_is_copied():
    """The build context has what the COPY lines name, and nothing else."""
    sources = {source for name, words in INSTRUCTIONS if name == "COPY" for source in words.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == sources
    assert ignored[0] == "*"
