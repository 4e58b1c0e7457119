"""Embed a data set's images and captions, or import embeddings that exist.

    python jobs/embed.py --output runs/demo/embeddings
    python jobs/embed.py --dataset karpathy --annotations dataset_flickr8k.json --images Images --model ViT-B-32 \\
        --pretrained openai --output runs/flickr8k/embeddings
    python jobs/embed.py --dataset webdataset --images 's3://bucket/pairs-{000..099}.tar' --model ViT-B-32 \\
        --pretrained openai --output runs/pairs/embeddings
    python jobs/embed.py --import-images I.npy --import-texts T.npy --import-ids ids.json --output runs/mine/embeddings
    python jobs/embed.py --import-clip-retrieval embeddings_folder --output runs/mine/embeddings
"""

from xmrank.cli import run_job

if __name__ == "__main__":
    run_job("embed")
