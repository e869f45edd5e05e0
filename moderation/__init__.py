"""Bona Fide: flagged images in, verdicts with rationales out, decisions by people."""
