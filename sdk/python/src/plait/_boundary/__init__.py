"""Contract tests of a user's own services: boundary messages made from descriptors, sent through
every worker of a method, and the answers compared.

`plait contract test` and the pytest fixture `plait_contract` are its doors. The Go package
plaittest makes the same messages under the same names: interop/vectors/boundary_cases.json.
"""
