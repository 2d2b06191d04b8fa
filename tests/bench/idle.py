"""What a relay takes that has nothing to do: memory and start-up, beside bare Starlette apps, in one run.

    python -m tests.bench.idle [--times 5]

Three programs under the same uvicorn, each `--times` times, in turns: an app with one door; the same app with every
third-party module imported that a relay imports; `relay serve` on a new database, whose upstream takes no connections.
Start-up lasts from the start of the process to the first 200 of `/healthz`; beside it stands the CPU time until then,
which a busy machine does not lengthen; memory is what the process has for itself and its share of what it has
with others (PSS), a second later. The goals are for the relay beside the second. Then: which imports take the time.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from tests.whole.processes import ROOT, SERVE, free_port

MORE_MIB: Final = 25.0
MORE_S: Final = 0.7
UP_WITHIN_S: Final = 60.0
SHOWN: Final = 8

BARE: Final = """
import importlib, json, os
for name in json.loads(os.environ["MODULES"]):
    importlib.import_module(name)
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def alive(request):
    return Response("ok")
app = Starlette(routes=[Route("/healthz", alive)])
uvicorn.run(app, port=int(os.environ["RELAY_PORT"]), log_config=None, access_log=False, http="httptools", loop="uvloop")
"""
# What a running relay has imported that is neither its own nor Python's.
IMPORTED: Final = """
import json, sys
import relay.cli.main, relay.cli.serve, relay.node, uvloop, uvicorn.protocols.http.httptools_impl, uvicorn.lifespan.on
own = ("relay", "__main__", *sys.stdlib_module_names)
print(json.dumps([name for name in sys.modules if name.split(".")[0] not in own and not name.startswith("_")]))
"""


def environment(folder: Path, modules: list[str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "DATABASE_URL"))}
    return own | {
        "PYTHONPATH": str(ROOT),
        "MODULES": json.dumps(modules),
        "RELAY_DATABASE_URL": f"sqlite:///{folder / 'relay.db'}",
        "RELAY_PORT": str(free_port()),
        "RELAY_UPSTREAM_URL": f"http://127.0.0.1:{free_port()}/v1/runwayml",
        "RELAY_UPSTREAM_TOKEN": "any",
        "RELAY_ADMIN_TOKEN": "a-token-of-24-characters",
    }


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(command: tuple[str, ...], modules: list[str]) -> tuple[float, float, float]:
    """Seconds until it answers, CPU seconds until then, and MiB a second later."""
    with tempfile.TemporaryDirectory(prefix="idle-") as folder:
        env = environment(Path(folder), modules)
        began_s = time.perf_counter()
        process = subprocess.Popen(command, env=env, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            while not answers(int(env["RELAY_PORT"])):
                assert process.poll() is None, "it did not start"
                assert time.perf_counter() - began_s < UP_WITHIN_S
                time.sleep(0.002)
            took_s, used_s = time.perf_counter() - began_s, cpu_s(process.pid)
            time.sleep(1)
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            pss = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            assert pss is not None
            return took_s, used_s, int(pss[1]) / 1024
        finally:
            process.terminate()
            process.wait()


def imports() -> list[tuple[str, float]]:
    """Milliseconds that the modules of each package take to import, their own alone, the dearest first."""
    command = [sys.executable, "-X", "importtime", "-c", IMPORTED]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    by_package: dict[str, float] = {}
    for took_us, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", said):
        package = name.split(".")[0]
        package = "Python's own" if package.lstrip("_") in {n.lstrip("_") for n in sys.stdlib_module_names} else package
        by_package[package] = by_package.get(package, 0.0) + int(took_us) / 1000
    return sorted(by_package.items(), key=lambda item: -item[1])


def main(times: int) -> None:
    listed = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = json.loads(listed.stdout)
    bare = (sys.executable, "-c", BARE)
    programs = {
        "bare Starlette": (bare, []),
        "with the relay's dependencies": (bare, modules),
        "relay serve": (SERVE, []),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in programs}
    for _ in range(times):
        for name, (command, imported) in programs.items():
            found[name].append(measured(command, imported))
    print(f"{'':<32}{'start-up s':>12}{'CPU s':>8}{'memory MiB':>12}")
    middle = {name: tuple(median(part) for part in zip(*each, strict=True)) for name, each in found.items()}
    for name, (took_s, used_s, mib) in middle.items():
        print(f"{name:<32}{took_s:>12.2f}{used_s:>8.2f}{mib:>12.1f}")
    more_s, more_used_s, more_mib = (relay - base for base, relay in zip(*list(middle.values())[1:], strict=True))
    print(f"{'the relay more than its base':<32}{more_s:>12.2f}{more_used_s:>8.2f}{more_mib:>12.1f}")
    print(f"{'goal, at most':<32}{MORE_S:>12.2f}{'':>8}{MORE_MIB:>12.1f}")
    print("\nimporting, ms: " + ", ".join(f"{package} {took_ms:.0f}" for package, took_ms in imports()[:SHOWN]))
    missed = more_s > MORE_S or more_mib > MORE_MIB
    print("a goal is missed" if missed else "both goals are reached")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    main(parser.parse_args().times)
