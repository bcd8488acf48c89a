"""Workers on a Ray cluster: the second launcher of `runs.workforce`, for `--ray`. Needs the extra `ray`.

A Ray actor reserves the place, and starts the worker there as a process (`workforce.LocalWorker`). Ray moves requests
and ends only: the run folder, and whatever else the settings name, lie on a file system that every node sees under the
same path. A lost actor or node costs the batches that it was working on.
"""

import logging
import math
import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Literal

from lightreasoner.errors import ConfigError, RunError
from lightreasoner.runs.progress import say
from lightreasoner.runs.workforce import LOOK_EVERY, End, LocalWorker, Request

LOCAL = "local"
CONNECT_WITHIN = 5.0  # seconds


class RayLauncher:
    """Starts each worker on a place of its own in a Ray cluster; made by `ray_launcher`.

    Attributes:
        count: number of workers.
        on_device: most workers that share a device.
        on_gpus: whether each worker has a GPU.
    """

    def __init__(self, ray: Any, workers: int | Literal["auto"], device: str) -> None:
        self._ray = ray
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        gpus = int(total.get("GPU", 0)) if device != "cpu" else 0
        cpus = int(total.get("CPU", 1))
        self.count = (gpus or len(nodes)) if workers == "auto" else workers
        self.on_gpus = gpus > 0
        self._resources = {"num_gpus": 1 if gpus else 0, "num_cpus": max(1, cpus // max(self.count, len(nodes)))}
        self._device = device.partition(":")[0]  # Ray shows each actor its own GPU as the first one
        self.on_device = 1 if gpus else math.ceil(self.count / len(nodes))
        each = "one GPU" if gpus else f"{self._resources['num_cpus']} cores"
        say(f"Ray: {self.count} workers with {each} each, on {len(nodes)} nodes")

    def start(self, index: int, name: str, request: Request) -> "RayWorker":
        """See `workforce.Launcher.start`."""
        config = {**request["config"], "device": self._device}
        if "grading_workers" in config and config["grading_workers"] is None:
            config["grading_workers"] = self._resources["num_cpus"]
        # Two threads: one waits for the worker, the other takes requests to stop it.
        actor = self._ray.remote(_Place).options(**self._resources, max_concurrency=2, max_restarts=0)
        counts = (self.on_device, self.count)
        return RayWorker(self._ray, actor.remote(os.getcwd(), request["command"], counts, name, config))


class RayWorker:
    """A worker in a Ray cluster; made by `RayLauncher`."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._result = actor.wait.remote()
        self._end: End | None = None

    @property
    def end(self) -> End | None:
        """See `workforce.Handle.end`."""
        if self._end is None and self._ray.wait([self._result], timeout=0)[0]:
            try:
                self._end = self._ray.get(self._result)
            except self._ray.exceptions.RayError as error:
                line = str(error).strip().partition("\n")[0]
                self._end = End(died="its Ray actor is gone", last_line=line)
        return self._end

    def stop(self) -> None:
        """See `workforce.Handle.stop`."""
        self._actor.stop.remote()

    def kill(self) -> None:
        """See `workforce.Handle.kill`."""
        with suppress(self._ray.exceptions.RayError, TimeoutError):
            self._ray.get(self._actor.kill.remote(), timeout=5)
        self._ray.kill(self._actor)


class _Place:
    """In a Ray actor: one worker, a process of its node."""

    def __init__(self, folder: str, command: str, counts: tuple[int, int], name: str, config: dict[str, Any]) -> None:
        try:
            os.chdir(folder)  # relative paths of the settings mean the same to all
        except OSError as error:
            raise RunError(
                f"{platform.node()} does not see {folder} ({error.strerror}); workers on other nodes need the run "
                "folder on a file system that all nodes share, under the same path"
            ) from None
        self._worker = LocalWorker(command, *counts, environment={})
        self._worker.begin(name, config)

    def wait(self) -> End:
        """How the worker ended, once it has."""
        while self._worker.end is None:
            time.sleep(LOOK_EVERY)
        return self._worker.end

    def stop(self) -> None:
        """See `LocalWorker.stop`."""
        self._worker.stop()

    def kill(self) -> None:
        """See `LocalWorker.kill`."""
        self._worker.kill()


def check_ray(address: str) -> None:
    """Look whether Ray is installed and, but for `local`, whether a cluster answers at this address.

    Raises:
        ConfigError: it is not, or none does.
    """
    ray = _import_ray()
    if address != LOCAL and not ray.is_initialized():
        _connect(ray, address)
        ray.shutdown()


@contextmanager
def ray_launcher(address: str, workers: int | Literal["auto"], device: str) -> Iterator[RayLauncher]:
    """A launcher on the cluster at `address`, or on one that lives on this machine as long as the context (`local`).

    Raises:
        ConfigError: Ray is not installed, or nothing answers at this address.
    """
    ray = _import_ray()
    begun = not ray.is_initialized()  # a program that uses Ray keeps its own connection
    if begun:
        _connect(ray, address)
    try:
        launcher = RayLauncher(ray, workers, device)
        yield launcher
    finally:
        if begun:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ConfigError("--ray needs Ray: pip install '.[ray]' in the clone of lightreasoner") from None


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"address": address} if address != LOCAL else {"include_dashboard": False}
    try:
        _refuse_if_silent(address)
        ray.init(**options, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        line = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there ({line}). Give the address that `ray start --head` "
            f"printed, auto on a node of the cluster, or {LOCAL} for this machine alone"
        ) from None


def _refuse_if_silent(address: str) -> None:
    """Look whether anything listens at HOST:PORT: Ray itself tries for minutes.

    Raises:
        OSError: nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=CONNECT_WITHIN):
            pass
