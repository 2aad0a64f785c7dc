"""`make run`: embedded engines, web process and consumer, for development only.

environment  the ports, and the environment that everything runs in
engines      Kafka and DynamoDB, embedded
services     the web process and the consumer
supervisor   starts processes, restarts services, stops all in order
process      one run of a command
guard        ends a command when its supervisor is gone
background   engines that outlive the command that started them
pidfile      at most one run per checkout
fences       removes fences of deleted topics from a kept table

An app of its own: neither the image nor the wheel contains it.
"""

from __future__ import annotations
