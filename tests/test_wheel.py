"""The wheel: what is in it, and the command that it brings, in an environment and a folder without a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environments import make_environment

import xmrank
from xmrank.config import TrainConfig
from xmrank.config.presets import PRESETS, list_presets

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves folders behind, and takes what an earlier one has left."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "xmrank", source / "xmrank", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, made], cwd=source, check=True, capture_output=True)
    return next(made.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The programs of an environment that has the wheel, and xmrank's dependencies but no checkout of it."""
    scripts = make_environment(tmp_path_factory.mktemp("environment"))
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return scripts


@pytest.fixture
def run(environment, tmp_path):
    """Runs a program of that environment in an empty folder; returns what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XMRANK_"))}

    def call(program, *arguments):
        command = [environment / program, *map(str, arguments)]
        variables = kept | {"XMRANK_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel):
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "xmrank"]
    files = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = {name for name in files if (ROOT / name).is_file()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {Path(name).suffix for name in wanted} >= {".yaml", ".jinja", ".css", ".json", ".safetensors"}
    assert packed == wanted


def test_the_command_has_a_version_and_the_presets(run):
    assert run("xmrank", "--version") == f"xmrank {xmrank.__version__}\n"
    text = " ".join(run("python", "-m", "xmrank", "train", "--help").split())
    known = ",".join(list_presets(PRESETS, "train", TrainConfig))
    assert f"--preset {{{known},FILE.yaml}}: settings" in text and "paper" in known


def test_the_installed_package_reads_its_templates_and_its_encoder(run, tmp_path):
    sizes = ("--scenes.train", 4, "--scenes.val", 2, "--scenes.test", 2)
    printed = run("xmrank", "embed", "--inspect", *sizes, "--output", "looked")
    assert f"embed: with pictures: {tmp_path / 'looked-inspect.html'}" in printed
    code = "import xmrank.embed.model_source as m; print(m.__file__, m.BUNDLED / m.TINY)"
    module, encoder = map(Path, run("python", "-c", code).split())
    assert not module.is_relative_to(ROOT) and encoder.with_suffix(".safetensors").is_file()
