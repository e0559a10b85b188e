"""What a net does inside, block by block."""
