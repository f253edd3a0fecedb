"""Faults, injected into a real engine: what is lost, and how long until the next right answer."""
