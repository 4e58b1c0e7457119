"""Mine candidate lists from an embedding store.

python jobs/mine.py --embeddings runs/demo/embeddings --preset paper --output runs/demo/lists
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("mine")
