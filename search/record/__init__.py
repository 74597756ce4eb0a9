"""The one record of what happened: an Optuna storage, and the lease on it (no torch, no ray)."""
