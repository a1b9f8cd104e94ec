"""The write-ahead log and the snapshots: what a coordinator has on disk.

    DIR/lock                     held (flock) by the one process that uses DIR
    DIR/wal/<sequence>.wal       segments, append-only; a segment opens with a marker record
    DIR/snapshots/<index>.snap   the two newest snapshots of the state

Start reading at `record` (how one record is framed), then `log` (segments, group append, recovery, compaction),
`snapshots` (and `incoming`: from another member), `recovery` (newest good snapshot + log = state), and `storage`,
which is all of that for an engine. `single` is the engine of one member; that of several is `coordinator.raft`.
`files` is the only place that touches a real disk; `cloudless.testing.disk` is its simulated twin. `python -m
cloudless.coordinator.wal.inspect DIR` checks a directory without changing it.

The log is a Raft log: entries with term and index, term and vote in the same file, truncation of a conflicting
suffix.
"""
