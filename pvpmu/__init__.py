"""pvpmu: design, measure and prove a paravirtual PMU before writing kernel code."""

__version__ = "0.1.0"
