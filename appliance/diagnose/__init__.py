"""Reads an engine's log and names what went wrong first, what to do, and what to send on."""
