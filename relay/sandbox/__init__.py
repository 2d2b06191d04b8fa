"""Imitates the upstream, so that everything can be tried without an account."""
