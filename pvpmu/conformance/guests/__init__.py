"""The kit as host: whether a guest driver keeps the rules, also when things go wrong."""
