"""Changing a run's course in mid-run: drafts, plans, pivots, live bounds, forks."""
