"""Comparison of one result with another: which figures differ by more than chance and noise."""
