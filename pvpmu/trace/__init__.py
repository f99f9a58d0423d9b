"""Traces of other guests: read them, and say what a design would leave of their exits."""
