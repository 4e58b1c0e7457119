"""Mine candidate lists from an embedding store.

python jobs/mine.py --embeddings runs/demo/embeddings --preset paper --output runs/demo/lists
"""

from xmrank.candidates import mine
from xmrank.commandline import run
from xmrank.config import MineConfig

if __name__ == "__main__":
    run(mine, MineConfig)
