"""Mine candidate lists from an embedding store.

python jobs/mine.py --embeddings runs/demo/embeddings --preset paper --output runs/demo/lists
"""

from xmrank.cli import run
from xmrank.config import MineConfig
from xmrank.mine.stage import mine

if __name__ == "__main__":
    run(mine, MineConfig)
