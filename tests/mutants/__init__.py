"""Mutations of the code, each with the test that has to catch it: `make mutants`."""
