"""What can be searched and what flows: vocabulary and arithmetic only (no torch, ray or optuna)."""
