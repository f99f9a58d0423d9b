"""The binary interface in other forms: a C header and the tables of the specification."""
