"""Who is who: keys, certificates, join tokens and the channels that carry them.

Every member of a fabric has a SPIFFE id inside a short-lived certificate: `spiffe://<trust-domain>/node/<id>`,
`/user/<name>` or `/coordinator/<id>` (`spiffe`). The coordinator's authority signs them (`ca`): a root that may be
taken offline, and an issuing intermediate. A device gets its first certificate with a join token (`tokens`), a
signed JWT that also pins the root, so that one string is all that has to be carried to the device
(`enrollment`). Afterwards it keeps its key and renews its certificate live (`renewal`). What a member holds is a
`Credentials` object (`credentials`), which opens mutually authenticated channels (`channel`).

`spiffe`, `credentials` and `channel` do not import `cryptography`, so that a short command line start stays short.
"""
