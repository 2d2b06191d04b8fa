"""The relay's own decisions on a virtual clock, against an upstream that does everything it may do."""
