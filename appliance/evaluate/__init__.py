"""Accuracy: evalscope against a running server, from flags to a result document."""
