"""Damaged inputs: every kind of file that xmrank reads, changed at random, and what its reader makes of that.

    PYTHONPATH=.:tests python -m mutations --count 12000 --seed 0

``test_mutations.py`` runs a few of them.
"""

import sys
from pathlib import Path

# The samples of the readers are in a folder of tests.
sys.path.append(str(Path(__file__).parents[1] / "datasets"))
