"""What the tests of the embedding stage share."""

from dataclasses import asdict

import pytest
from embedding_samples import make_pictures

from xmrank.embed import encoding
from xmrank.embed.ray import ShardEncoder, fit_from_settings
from xmrank.runtime.errors import DataError


@pytest.fixture
def folder(tmp_path):
    make_pictures(tmp_path)
    return tmp_path


@pytest.fixture
def encoded(monkeypatch):
    """Shards are encoded in this process, without a cluster; the names of those that were."""
    names = []

    def here(shards, settings, preparer, work, workers):
        encoder = ShardEncoder(settings, preparer, work)
        for shard in shards:
            names.append(f"{shard.kind}-{shard.number}")
            result = encoder(asdict(shard))
            if result["failure"]:
                raise DataError(result["failure"])
            yield result

    monkeypatch.setattr(encoding, "encode_shards", here)
    monkeypatch.setattr(encoding, "fit_on_worker", lambda *arguments: fit_from_settings(*arguments)["projections"])
    return names
