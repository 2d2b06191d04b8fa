"""Benchmarks: figures as ratios against peers in the same run; each file says its command."""
