"""Tests of the whole relay as a process of its own: started, killed, started again."""
