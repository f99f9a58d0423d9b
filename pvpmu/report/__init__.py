"""The evidence of a measurement as pages: tables, plots, statistics, commands to repeat it."""
