"""What the event doors promise, as checks that can be pointed at any URL: `python -m tests.conformance --help`."""
