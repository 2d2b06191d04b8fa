"""Remembers: the durable store, its one writer and its readers."""
