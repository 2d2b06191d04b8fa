"""Tests of `relay/net`: real sockets on port 0."""
