"""The benchmark: the project and its peers in turn, on the same engines."""
