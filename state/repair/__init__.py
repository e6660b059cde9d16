"""Checking a run's files against each other, and repairing them by a printed plan."""
