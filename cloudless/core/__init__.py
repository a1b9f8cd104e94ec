"""Pure domain model shared by coordinator, agent and CLI: no clock, no randomness, no I/O.

Start at `spec` (what a user asks for), then `model` (nodes, replicas, tokens, events: what the fabric
knows), `validation` (what is refused and why), `backoff`, `selectors`, `quantity`.
"""
