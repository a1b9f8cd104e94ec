"""The etcd engine: log and snapshots in an etcd that the operator already runs."""
