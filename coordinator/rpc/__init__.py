"""The coordinator's gRPC surface: authenticate, authorise, validate, convert, propose. It decides nothing.

A call passes one pipeline of interceptors, outermost first; each has a module of its own:

    observation     request id, log context, span, metrics
    failures        every exception becomes a status with trailers
    deadlines       unary calls end in time
    authentication  who calls: the SPIFFE id of the peer's certificate
    authorization   may it: one row per RPC in `access`
    services/       the handlers

There are two servers (`server.py`). The enrolment listener asks for no client certificate and serves enrolment
and health; the API listener is mTLS and serves everything else. Lists and watches of every kind share
`listing.py` and `watching.py`.
"""
