"""The files that the supervised stage writes for its report."""

RESULTS, TIMING, METRICS, TSNE = "results.json", "timing.json", "metrics.parquet", "tsne.json"
