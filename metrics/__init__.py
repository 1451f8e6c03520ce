"""Prometheus metrics, read from the pinned maps at each scrape."""
