"""The guarantee on Apache Kafka and DynamoDB Local."""

from __future__ import annotations
