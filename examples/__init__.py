"""Data sets made on the spot, so that the first study needs no download."""
