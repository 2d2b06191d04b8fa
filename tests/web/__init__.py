"""Tests of `relay/web`: a whole relay behind real sockets."""
