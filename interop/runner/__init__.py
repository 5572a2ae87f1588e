"""Runs the conformance cases: every SDK as client against every SDK as worker.

It shares no code with any SDK: only messages, the wire, and the processes.
"""
