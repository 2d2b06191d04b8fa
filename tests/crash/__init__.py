"""Proofs that a callback that was answered 200 is never lost: by power loss, kills, a full disk, a clock that jumps."""
