"""Python environments beside that of the tests."""

import subprocess
import sys
import sysconfig
from pathlib import Path


def make_environment(folder: Path) -> Path:
    """Make an environment that has what the tests' own has, but for xmrank; returns the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    # A path in such a file is searched for packages; what lies there, such as an editable xmrank, is not followed.
    dependencies = Path(sysconfig.get_path("purelib", vars=paths)) / "dependencies.pth"
    dependencies.write_text(sysconfig.get_path("purelib"))
    return folder / "bin"
