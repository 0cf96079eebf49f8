"""Health checks of the containers: exit code 0 if the part is at work, else 1 and why.

    python -m deploy.health orchestrator
    python -m deploy.health worker [--device cuda]
    python -m deploy.health dashboard [--port 8080]

The first two ask Redis, because a process that is there says nothing: what counts is whether the
service sees it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import socket
import sys

import redis

from justright.broker import Broker
from justright.brokers.connection import connect, unavailable
from justright.brokers.redis import RedisBroker
from justright.errors import JustrightError
from justright.settings import load_settings

_PATIENCE = 8.0  # seconds for the dashboard's answer; the images' HEALTHCHECK allows 10 in all


class Unhealthy(JustrightError):
    """A part of the service is not at work."""


def check_orchestrator(broker: Broker) -> str:
    """One is active: this one, or another one for which it stands by.

    A standby takes over within seconds, so none active means that this one does not work either.
    """
    leader = broker.leader()
    if leader is None:
        raise Unhealthy("no orchestrator is active")
    return f"{leader} is active"


def check_worker(broker: Broker, host: str, device: str) -> str:
    """A worker of this host has beaten within its lease, and trains on this kind of device."""
    mine = [worker for worker in broker.workers() if worker.host == host]
    if not mine:
        raise Unhealthy(f"no worker of host {host} is registered")
    others = [worker for worker in mine if not worker.device.startswith(device)]
    if others:
        found = ", ".join(f"{worker.name} trains on {worker.device}" for worker in others)
        raise Unhealthy(f"{found}, expected {device}: does its torch fit the driver?")
    return ", ".join(f"{worker.name} ({worker.device})" for worker in mine)


def check_dashboard(port: int, password: str = "") -> str:
    """It lists the studies, so its storage answers as well. Never asked through a proxy."""
    credentials = base64.b64encode(f"health:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"} if password else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/api/studies", headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"no dashboard answers on port {port} ({type(error).__name__})") from None
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        raise Unhealthy(f"the dashboard answers with status {status}")
    return f"the dashboard answers on port {port}"


def _examine(options: argparse.Namespace) -> str:
    settings = load_settings()
    if options.part == "dashboard":
        password = settings.dashboard_password
        return check_dashboard(options.port, password.get_secret_value() if password else "")
    url = settings.redis_url.get_secret_value()
    broker = RedisBroker(connect(url, patient=False))
    try:
        if options.part == "orchestrator":
            return check_orchestrator(broker)
        return check_worker(broker, socket.gethostname(), options.device)
    except redis.RedisError as error:
        raise unavailable(url, error) from None


def main(arguments: list[str] | None = None) -> int:
    """Run one check; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.health")
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("orchestrator")
    worker = parts.add_parser("worker")
    worker.add_argument("--device", default="", help="what all must train on, such as cuda")
    dashboard = parts.add_parser("dashboard")
    dashboard.add_argument("--port", type=int, default=8080)
    try:
        print(_examine(parser.parse_args(arguments)))
    except JustrightError as error:
        print(f"unhealthy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
