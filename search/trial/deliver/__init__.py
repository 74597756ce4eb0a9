"""Delivery: what leaves the study as files that load anywhere."""
