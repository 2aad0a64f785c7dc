"""What any part of a process uses: gates, metrics, tracing, log format, background reading."""
