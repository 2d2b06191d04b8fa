"""Lets in: every HTTP door of the relay."""
