"""Runs that show what fermm promises of large data and of long runs; too long for the tests."""
