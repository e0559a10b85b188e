"""What a script or notebook does with the package, on top of what the command line does."""
