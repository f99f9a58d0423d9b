"""Sweeps: count a grid of designs, scenarios and costs, a CSV row per point, resumable."""
