"""Rankings measured by more relevance judgements than one image's own captions."""
