"""Tools for a fabric on one machine: a private containerd and images made from local files.

The demo, the tests and the benchmarks share them. Nothing in the coordinator, the agent or the command line
client depends on them.
"""
