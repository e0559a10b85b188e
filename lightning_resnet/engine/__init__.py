"""Everything that touches Lightning's inside: loops, checkpoints, ranks and signals."""
