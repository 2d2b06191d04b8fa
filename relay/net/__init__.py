"""Calls out: the upstream, subscribers, artifact hosts."""
