"""Tests of `relay/work`: real stores and sockets, and a clock that is moved by hand."""
