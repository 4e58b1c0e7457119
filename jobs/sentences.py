"""Embed a store's captions with a model of sentence-transformers (extra: sentences), to compare captions by.

    python jobs/sentences.py --embeddings runs/demo/embeddings --output runs/demo/sentences
    python jobs/mine.py --embeddings runs/demo/embeddings --relevance captions \\
        --relevance-texts runs/demo/sentences/texts.npy --output runs/demo/graded
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("sentences")
