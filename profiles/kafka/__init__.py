"""Kafka: clients, what a topic is, its log, the producer, the dead-letter topic."""
