"""`manage.py run_local`: what `make run` and the embedded `make local-dev-stack` run."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from devstack import background, engines, pidfile, services
from devstack.environment import Ports, environment, listens
from devstack.fences import clear_old_fences
from devstack.supervisor import Interrupted, RunFailed, Supervisor
from profiles.dynamodb import client
from profiles.kafka import clients, topics
from profiles.management import errors

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

Ctrl-C stops everything; the table is kept under var/."""

ENGINES_READY = """
Ready: Kafka on 127.0.0.1:{ports.kafka}, DynamoDB on http://127.0.0.1:{ports.dynamodb}"""

STOPPING = """
Stopping: the web process, the consumer when it has applied all updates, the engines ..."""


class Command(BaseCommand):
    """Starts engines and services under the supervisor."""

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
            "--stop", action="store_true", help="stop what --detach started"
        )

    @errors.as_sentences(RunFailed)
    def handle(self, *args: Any, **options: Any) -> None:
        """Run by option; exit code 1 if the run fails or a second Ctrl-C kills it."""
        LOGS.mkdir(parents=True, exist_ok=True)
        try:
            if options["stop"]:
                background.stop(PID_FILE, self._say)
            elif options["detach"]:
                background.start(PID_FILE, LOGS / "engines.log", self._say)
            else:
                self._run(_ports(), options["engines_only"])
        except Interrupted:
            raise CommandError(
                "Stopped at once: the last accepted updates may be missing in the table."
            ) from None

    def _run(self, ports: Ports, engines_only: bool) -> None:
        held = pidfile.acquire(PID_FILE)
        if held is None:
            raise RunFailed(
                "the engines of this checkout run already: stop them with Ctrl-C in "
                "their terminal, or with `make local-dev-stack-down`"
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
                supervisor.stop(services.all_is_applied)

    def _start_engines(self, supervisor: Supervisor, ports: Ports) -> None:
        supervisor.start_engine(engines.kafka(ports.kafka, LOGS))
        supervisor.start_engine(engines.dynamodb(ports.dynamodb, LOGS, TABLES))
        call_command("migrate", verbosity=0)
        supervisor.wait_until(partial(listens, ports.kafka), "Kafka did not answer")
        supervisor.wait_until(
            partial(engines.dynamodb_answers, ports.dynamodb), "DynamoDB did not answer"
        )
        call_command("provision", stdout=self.stdout)
        with clients.admin() as admin:
            topic = topics.describe(admin, settings.KAFKA_TOPIC)
        clear_old_fences(client.connect(), settings.DYNAMODB_TABLE, topic.id)

    def _start_services(self, supervisor: Supervisor, ports: Ports) -> None:
        supervisor.start_service(services.web())
        supervisor.start_service(services.consumer())
        supervisor.wait_until(
            partial(services.web_is_ready, ports.web), "the web process was not ready"
        )
        with clients.admin() as admin:
            supervisor.wait_until(
                partial(services.consumer_has_joined, admin),
                "the consumer did not join its group",
            )

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may be closed
            self.stdout.write(line)
            self.stdout.flush()


def _ports() -> Ports:
    """The ports; restarts this process if its environment is not the run's own."""
    ports = Ports.of(os.environ)
    environ = environment(ports, os.environ)
    if environ != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606
    return ports
