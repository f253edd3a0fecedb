"""Measures how fast a model is served, with vLLM's own benchmarks, and keeps what came of it.

`vllm bench` runs in a container of its own, from the image of what is measured: beside the
server, within its network, for `serve`; with an engine of its own for `latency` and
`throughput`. The container's side is `appliance.inside.bench`.
"""
