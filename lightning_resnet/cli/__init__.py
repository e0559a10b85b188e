"""The command line: one thin file per verb, which imports the rest of the package when it runs."""
