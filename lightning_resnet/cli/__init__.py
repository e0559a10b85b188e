"""The command line: one thin file per verb. Each imports the rest of the package only when it runs."""
