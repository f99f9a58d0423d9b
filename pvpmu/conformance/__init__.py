"""The conformance kit: vectors as data, the runner, targets and reports."""
