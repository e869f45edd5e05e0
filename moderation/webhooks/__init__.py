"""Webhooks: the endpoints of platforms, what is sent to them, and the courier that sends it."""
