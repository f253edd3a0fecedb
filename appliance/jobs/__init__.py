"""One piece of work in a container of its own, beside the appliance: offline, bench, eval.

Work goes in by the container's stdin and comes out by its stdout, so it needs no folder that
both sides may write to, sees no file of the host but those that the plan mounts, and ends when
the launcher does, however that ends: its stdin is then closed.
"""
