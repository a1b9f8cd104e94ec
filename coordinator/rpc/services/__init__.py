"""The gRPC services: each handler validates, converts and proposes or reads; the decisions are in `core`."""
