"""A client and a worker that are no SDK: docs/protocol.md, read by somebody else.

They speak the protocol with grpcio over generated messages, and share no code with what they are
compared with. They are written to be read beside the protocol, not to be fast, and know one
service, testing.v1.EchoService. Started as a process of their own: python -m interop.reference.
"""
