"""The encoders' class of the embedding stage without model and reading, in a module that workers can import."""

import hashlib
from typing import Any

import torch

from xmrank.embed.ray import ShardEncoder
from xmrank.embed.shard_report import ShardReport
from xmrank.embed.shards import PreparedShard, Shard

DIMENSIONS, IMAGE_BYTES = 16, 100


class ConstantEncoder:
    """Stands for a model: every item has the same embedding."""

    name, dimensions = "constant", DIMENSIONS

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[items, DIMENSIONS]."""
        return torch.eye(1, DIMENSIONS).expand(len(pixels), -1)

    encode_tokens = encode_images


class ConstantShardEncoder(ShardEncoder):
    """Writes shards of constants."""

    @property
    def encoder(self) -> Any:
        """The model."""
        return ConstantEncoder()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """As the stage's own, with a shard that was prepared here."""
        shard = Shard(**row)
        report = ShardReport(len(shard), settings=self.preparer.settings)
        if shard.kind == "image":
            rows = range(shard.start, shard.stop)
            report.bytes = [IMAGE_BYTES] * len(shard)
            report.sha256 = [hashlib.sha256(str(image).encode()).hexdigest() for image in rows]
        batch = list(range(len(shard))), torch.zeros(len(shard), 1)
        return super().__call__(row | {"prepared": PreparedShard(report, [batch])})
