"""Streams under fire: connections cut, readers stalled, relays killed; nothing may be lost, doubled or out of order."""
