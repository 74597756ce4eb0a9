"""The driver: the way through a study, from its file to its report."""
