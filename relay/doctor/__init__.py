"""What a relay needs, looked at one by one: this machine, the upstream, and the way to a running relay."""
