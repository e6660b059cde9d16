"""Faults put into everything that writes: kills, errors, lies of the disk, power cuts, and many writers at once."""
