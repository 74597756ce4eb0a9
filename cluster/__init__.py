"""Launching jobs on clusters: light, no torch; meets `search` only at a command line."""
