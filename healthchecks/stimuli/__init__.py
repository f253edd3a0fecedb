"""Pictures, sounds and films with one right answer, made anew from a seed.

The standard library alone makes them. What is in a file depends on the seed and on nothing else:
the same seed gives the same bytes on every machine (numbers that went through a floating-point
function are rounded before they are used, and the compression is this package's own).
"""
