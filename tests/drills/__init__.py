"""Drills: what an operator hopes never to need, done once from beginning to end with the real programs."""
