"""Recordings: what a run did, event by event, in a file; and that file in other tools' formats."""
