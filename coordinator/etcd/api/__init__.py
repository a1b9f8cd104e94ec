"""Generated from proto/cloudless/coordinator/etcd/api."""
