"""Measurements: one command each, ratios against a baseline of the same run. Never tests, never timed in CI."""
