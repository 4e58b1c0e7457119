"""Baselines on paired data: fitted on train, both sides projected into one space, ranked by cosine."""
