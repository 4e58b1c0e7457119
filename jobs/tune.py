"""Search the settings of every loss and direction, and train the best ones with several seeds.

python jobs/tune.py --preset grid12 --embeddings runs/demo/embeddings --lists runs/demo/lists --output runs/demo/tuned
"""

from xmrank.cli import run
from xmrank.config import TuneConfig
from xmrank.tune.stage import tune

if __name__ == "__main__":
    run(tune, TuneConfig)
