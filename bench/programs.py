"""From `granary mount` to programs that have run, beside `nix copy` of their closure."""
import dataclasses
import os
import statistics
import tempfile
import time

import measure
import mounts
from mounts import Mount
from relay import BENCH, Relay

MB = 1e6
REPEATS = 5
MILLISECONDS = 50
COPY = "nix copy, then run"
LOCAL = "local disk"


@dataclasses.dataclass
class Cold:
    """A first run: seconds of wall and CPU time, bytes of all kinds, those of chunks."""
    wall: float
    cpu: float
    server: float
    received: int
    chunks: int | None = None
    questions: int | None = None


class Way:
    """How the server is reached: its URL there, and what has come from it."""

    def __init__(self, name, url, received):
        self.name, self.url, self.received = name, url, received


@dataclasses.dataclass
class Programs:
    granary: str
    nix: str
    relay: str
    server: object
    closure: object
    scratch: str
    report: object

    def __post_init__(self):
        self.local = f"{self.closure.root}/nix/store"
        self.packages = [self.package(name) for name in ("-libc6-dev-", "-linux-libc-dev-")]
        self.mountpoint = f"{self.scratch}/mnt"

    def package(self, name):
        [path] = [path for path in self.closure.paths if name in path]
        return path

    def run(self, store):
        """One run of the programs from the folder `store`."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="work-") as work:
            with mounts.bound(store):
                ran = mounts.run([f"{BENCH}/programs.sh", self.closure.top, *self.packages], cwd=work)
        if [line.split()[0] for line in ran.output.splitlines()] != ["numpy", "hello", "git"]:
            raise RuntimeError(f"the programs said something else:\n{ran.output}")
        return ran

    def learn(self):
        """One mount that tells the server what it read, for those that come after."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="cache-") as cache:
            # Only who has a token is listened to.
            with Mount(self.granary, self.server.base, self.mountpoint, f"{cache}/cache",
                       "--token-file", f"{self.server.data}/root-token"):
                self.run(self.mountpoint)

    def round(self):
        self.run(self.local)
        self.ways(Way("loopback", self.server.base, mounts.loopback_bytes), again=True)
        port = self.server.base.split(":")[2].split("/")[0]
        with Relay(self.relay, port, MILLISECONDS, f"{self.scratch}/counters") as relay:
            url = self.server.base.replace(f":{port}/", f":{relay.port}/")
            self.ways(Way(f"{MILLISECONDS} ms", url, relay.received), again=False)

    def ways(self, way, again):
        """Cold, by each of the three ways; then the mount again, warm."""
        # Whatever was measured before, the server finds its packs in memory.
        measure.read_all(measure.files(f"{self.server.data}/packs"))
        copied = self.copy(way)
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="cache-") as cache:
            alone = self.mount(way, cache, ["--no-profiles"])
            if again:
                self.again(way, cache)
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="cache-") as cache:
            ahead = self.mount(way, cache, [])
        self.compare(f"first run, {way.name}", alone, copied, COPY)
        self.compare(f"first run with profile, {way.name}", ahead, copied, COPY)
        self.compare(f"profile, {way.name}", ahead, alone, "--no-profiles")

    def compare(self, phase, ours, theirs, peer):
        def row(figure, unit, ours, theirs):
            self.report.add(phase, figure, unit, ours, theirs, None if theirs is None else peer)
        row("wall", "s", ours.wall, theirs.wall)
        row("client and programs", "CPU-s", ours.cpu, theirs.cpu)
        row("server", "CPU-s", ours.server, theirs.server)
        row("received", "MB", ours.received / MB, theirs.received / MB)
        row("received as chunks", "MB", ours.chunks / MB, theirs.chunks and theirs.chunks / MB)
        row("requests for chunks", "", ours.questions, theirs.questions)

    def copy(self, way):
        """`nix copy` of the closure into an empty store, with a home of its own; then the programs."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="copy-") as directory:
            environment = {
                "PATH": "/usr/bin:/bin", "HOME": directory, "NIX_CONF_DIR": directory,
                "NIX_CONFIG": "experimental-features = nix-command\nsubstituters =\n"
                              "build-users-group =\nsandbox = false\n"}
            before, received = measure.cpu_seconds(self.server.pids), way.received()
            started = time.monotonic()
            copy = mounts.run([self.nix, "copy", "--no-check-sigs", "--from", way.url, "--to",
                               f"local?root={directory}", self.closure.top], env=environment)
            ran = self.run(f"{directory}/nix/store")
            wall = time.monotonic() - started
            received = way.received() - received
            measure.settle(self.server.pids)
            used = measure.cpu_seconds(self.server.pids) - before
        # Nobody after this is to wait for what it wrote.
        os.sync()
        return Cold(wall, copy.cpu + ran.cpu, used, received)

    def mount(self, way, cache, options):
        """A mount with an empty cache folder, and the programs from it."""
        before, received = measure.cpu_seconds(self.server.pids), way.received()
        started = time.monotonic()
        with Mount(self.granary, way.url, self.mountpoint, f"{cache}/cache", *options) as mount:
            ran = self.run(self.mountpoint)
            wall = time.monotonic() - started
        received = way.received() - received
        measure.settle(self.server.pids)
        used = measure.cpu_seconds(self.server.pids) - before
        return Cold(wall, mount.cpu + ran.cpu, used, received, mount.fetched, mount.questions)

    def again(self, way, cache):
        """With what a first run has left in the cache folder, in turn with local disk."""
        def mount():
            return Mount(self.granary, way.url, self.mountpoint, f"{cache}/cache", "--no-profiles")
        with mount() as mounted:
            self.run(self.mountpoint)
            runs = [(self.run(self.mountpoint), self.run(self.local)) for _ in range(REPEATS)]
            _, used = mounts.cpu_of(mounted.pids, lambda: self.run(self.mountpoint))
        self.beside_local("again on the mount", runs, [used])
        for phase, drop in (("remounted", False), ("remounted, caches dropped", True)):
            runs, mounting, used = [], [], []
            for _ in range(REPEATS):
                if drop:
                    mounts.drop_caches()
                with mount() as mounted:
                    ours = self.run(self.mountpoint)
                mounting.append(mounted.took)
                used.append(mounted.cpu)
                if drop:
                    mounts.drop_caches()
                runs.append((ours, self.run(self.local)))
            self.beside_local(phase, runs, used)
            self.report.add(phase, "mounting itself", "s", statistics.median(mounting))

    def beside_local(self, phase, runs, used):
        ours, theirs = (mounts.median(side) for side in zip(*runs))
        self.report.add(phase, "wall", "s", ours.wall, theirs.wall, LOCAL)
        self.report.add(phase, "programs", "CPU-s", ours.cpu, theirs.cpu, LOCAL)
        used = statistics.median(used)
        self.report.add(phase, "programs + mount", "CPU-s", ours.cpu + used, theirs.cpu, LOCAL)
