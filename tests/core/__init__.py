"""Tests of `relay/core`: no await, no clock, no chance, no I/O."""
