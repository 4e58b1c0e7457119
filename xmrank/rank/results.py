"""The files of a ranking: the table of results, and the page that shows some of them."""

import pyarrow as pa

from xmrank.config.common import Direction
from xmrank.protocols.table_parts import TEXT

RESULTS = "results.parquet"
PAGE = "results.html"
RESULTS_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", TEXT),
        ("candidate_id", TEXT),
        ("candidate", TEXT),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("first_rank", pa.int32()),
        ("similarity", pa.float32()),
    ]
)
"""One row for each query and candidate, best first; ``first_rank`` is the rank in the first stage, from 1."""
STEPS = ("embed", "search", "rank")
"""What a query's time is made of."""
SIDES: dict[Direction, tuple[str, str]] = {"i2t": ("images", "captions"), "t2i": ("captions", "images")}
"""What the queries and what the gallery's items are."""
