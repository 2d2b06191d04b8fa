"""A webhook receiver and callback relay for asynchronous video generation."""

__version__ = "0.1.0"
