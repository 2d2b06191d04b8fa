"""Tests of `relay/store`: real files, real SQLite."""
