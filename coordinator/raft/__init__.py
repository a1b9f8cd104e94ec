"""The Raft engine: a pure core (`core`) and the shell that gives it a disk, a network and a clock."""
