// Follows events of the relay.
