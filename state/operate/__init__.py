"""The commands that look at a state and edit it."""
