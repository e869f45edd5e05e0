"""Rollouts of bundles: which serves, which is on trial, reruns, and two bundles side by side."""
