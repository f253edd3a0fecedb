"""The container's main process: starts the engine, watches its progress, and ends with it.

It never restarts the engine itself. On a hang or a death it keeps what tells why, stops what is
left, and exits with a code that the restart policy acts on; the next start reads the history,
waits longer each time, and after too many stays down until somebody has looked. So it is the
same under `docker run`, compose and Kubernetes.
"""
