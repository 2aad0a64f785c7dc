"""`manage.py run_local`: what `make run` and the embedded `make local-dev-stack` run."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from patientsite.local import background, pidfile, stack
from patientsite.local.fences import clear_old_fences
from patientsite.local.supervisor import Interrupted, RunFailed, Supervisor
from profiles.dynamodb import client
from profiles.kafka import clients, groups, topics

LOGS = settings.VAR_DIR / "log"
TABLES = settings.VAR_DIR / "dynamodb"
PID_FILE = settings.VAR_DIR / "run_local.pid"

READY = """
Ready. Post an update, see it in the table and on the page:

curl --location --request POST '0.0.0.0:{ports.web}/patientprofile' \\
  --header 'Content-Type: application/json' \\
  --data-raw '{{ "PatientId": "1", "FirstName": "John", "LastName": "Doe", "IsPregnant": "False", "Sex": "Female"}}'

AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test \\
  aws dynamodb scan --endpoint-url=http://localhost:{ports.dynamodb} --table-name {table}

http://127.0.0.1:{ports.web}/profiles/

Ctrl-C stops all; the table is kept under var/."""

ENGINES_READY = """
Ready: Kafka on 127.0.0.1:{ports.kafka}, DynamoDB on http://127.0.0.1:{ports.dynamodb}"""

STOPPING = """
Stopping: the web, the consumer once everything is in the table, the engines ..."""


class Command(BaseCommand):
    """Wires the stack to the supervisor."""

    help = "Run Kafka, DynamoDB, web and consumer on this machine, for development."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--engines-only", action="store_true", help="no web process, no consumer"
        )
        parser.add_argument(
            "--detach", action="store_true", help="engines only, in the background"
        )
        parser.add_argument(
            "--stop", action="store_true", help="end what --detach started"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Choose by option; a run that can't go on is exit code 1."""
        LOGS.mkdir(parents=True, exist_ok=True)
        try:
            if options["stop"]:
                background.stop(PID_FILE, self._say)
            elif options["detach"]:
                background.start(PID_FILE, LOGS / "engines.log", self._say)
            else:
                self._run(_ports(), options["engines_only"])
        except RunFailed as error:
            raise CommandError(f"{error}.") from None
        except Interrupted:
            raise CommandError(
                "Ended at once: what was accepted last may be missing in the table."
            ) from None

    def _run(self, ports: stack.Ports, engines_only: bool) -> None:
        held = pidfile.acquire(PID_FILE)
        if held is None:
            raise RunFailed(
                "this checkout's engines run already: end them with Ctrl-C where they "
                "were started, or with `make local-dev-stack-down`"
            )
        ports.require_free(web=not engines_only)
        with held, Supervisor(self._say) as supervisor:
            try:
                self._start_engines(supervisor, ports)
                if engines_only:
                    self._say(ENGINES_READY.format(ports=ports))
                    pidfile.publish(held)
                else:
                    self._start_services(supervisor, ports)
                    self._say(READY.format(ports=ports, table=settings.DYNAMODB_TABLE))
                supervisor.watch()
            except Interrupted:
                self._say(STOPPING)
            finally:
                supervisor.stop(_all_is_applied)

    def _start_engines(self, supervisor: Supervisor, ports: stack.Ports) -> None:
        supervisor.start_engine(stack.kafka(ports.kafka, LOGS))
        supervisor.start_engine(stack.dynamodb(ports.dynamodb, LOGS, TABLES))
        call_command("migrate", verbosity=0)
        supervisor.wait_until(
            lambda: stack.listens(ports.kafka), "Kafka did not answer"
        )
        supervisor.wait_until(
            lambda: stack.has_tables(ports.dynamodb), "DynamoDB did not answer"
        )
        call_command("provision", stdout=self.stdout)
        with clients.admin() as admin:
            topic = topics.describe(admin, settings.KAFKA_TOPIC)
        clear_old_fences(client.connect(), settings.DYNAMODB_TABLE, topic.id)

    def _start_services(self, supervisor: Supervisor, ports: stack.Ports) -> None:
        supervisor.start_service(stack.web())
        supervisor.start_service(stack.consumer())
        supervisor.wait_until(
            lambda: stack.is_ready(ports.web), "the web was not ready"
        )
        with clients.admin() as admin:
            supervisor.wait_until(
                partial(_has_joined, admin), "the consumer did not join its group"
            )

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone
            self.stdout.write(line)
            self.stdout.flush()


def _ports() -> stack.Ports:
    """The ports, in a process whose environment and settings are about these alone."""
    ports = stack.Ports.of(os.environ)
    environ = stack.environment(ports, os.environ)
    if environ != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606
    return ports


def _has_joined(admin: AdminClient) -> bool:
    """Whether the group has a member that was given its partitions."""
    group = settings.KAFKA_GROUP_ID
    found = admin.describe_consumer_groups([group], request_timeout=2)[group]
    try:
        return found.result(timeout=3).state is ConsumerGroupState.STABLE
    except (KafkaException, TimeoutError):
        return False


def _all_is_applied() -> bool:
    """Whether the group has committed all that is on the topic.

    Asked from outside the group: a member that joins now waits for seconds, and on the
    embedded broker at times for ever.
    """
    group = clients.group_reader()
    partitions = range(settings.KAFKA_PARTITIONS)
    try:
        return groups.all_read(group, settings.KAFKA_TOPIC, partitions)
    except topics.KafkaUnavailable:
        return False
    finally:
        group.close()
