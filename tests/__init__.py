"""Tests mirror `relay/`; see `.github/CONTRIBUTING.md` for how to run them."""
