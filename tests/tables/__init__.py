"""Commands that print tables; `python -m tests.tables.<name>`."""
