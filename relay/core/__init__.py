"""Decides: pure functions and values, no await, no clock, no chance, no I/O."""
