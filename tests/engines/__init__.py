"""Apache Kafka and Amazon's DynamoDB Local as processes that a test may harm."""

from __future__ import annotations
