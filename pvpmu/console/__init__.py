"""The live view of running hosts, in its own process: ``pvpmu top``."""
