"""What keeps a run alive and recorded."""
