"""Whether an engine makes progress: evidence first, and a question only where there is none.

``/health`` says 200 while the engine hangs, and a request that waits its turn says nothing about
a server that is full. So the counters of ``/metrics`` are watched; only when they stand still is
one token asked for, and only when that does not come either is the engine taken to hang.
"""
