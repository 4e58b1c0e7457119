"""Rank a gallery for new queries: captions in a text file, a folder of images, or a parquet file.

    python jobs/rank.py --queries captions.txt --embeddings runs/demo/embeddings --split test --top-n 50 --page 20 \\
        --output runs/demo/ranking
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("rank")
