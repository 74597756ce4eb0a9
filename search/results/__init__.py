"""What was found: the front, its numbers and its pictures (no torch, no ray)."""
