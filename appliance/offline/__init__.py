"""`appliance offline`: many requests through an engine of its own, with no server.

The launcher reads the input and its media with the operator's own rights, checks all that needs
no engine, and keeps the results; the container (`appliance/inside/offline.py`) prepares the
requests and runs them, and sees none of the operator's files.
"""
