"""Tables and figures from runs, by way of DataFrames: pure functions, without torch."""
