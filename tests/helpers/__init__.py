"""What tests share: data, processes, stand-ins, and readers of what a run leaves."""
