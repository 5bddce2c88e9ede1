"""The paper's four trainings, each written as users of one library would write them.

A module has a class `Peer` with the methods `start`, `steps`, `epoch`, `once` and
`predict_seconds`; `benchmarks.server` runs each in a process of its own.
"""
