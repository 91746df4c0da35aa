"""Speed and memory against the peers, each on the same weights and the same machine."""
