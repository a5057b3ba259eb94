"""What is measured, phase by phase. Every phase leaves rows in the report.

GB is 10^9 bytes of NAR, uncompressed, whatever travels. CPU seconds of a server include what it does
after its last answer.
"""
import contextlib
import dataclasses
import os
import shutil
import subprocess
import tempfile

import clients
import measure
from report import Report
from servers import Granary, Nginx

GB = 1e9
MB = 1e6
WARM_PULLS = 5
MISSES = 20000
FILE_CACHE = "nix copy file://, zstd"


class Closure:
    """A closure of store paths, as tests/closures/make leaves it."""

    def __init__(self, directory, variant):
        self.variant = variant
        self.root = os.path.realpath(f"{directory}/root")
        with open(f"{directory}/{variant}.top") as f:
            self.top = f.read().strip()
        with open(f"{directory}/{variant}.tsv") as f:
            rows = [line.split("\t") for line in f]
        self.nar_sha256 = {row[0]: row[1] for row in rows}
        self.gigabytes = sum(int(row[2]) for row in rows) / GB

    @property
    def paths(self):
        return list(self.nar_sha256)

    def __str__(self):
        return f"{self.variant}: {len(self.paths)} paths, {self.gigabytes:.3f} GB of NAR"


@dataclasses.dataclass
class Stored:
    """Closure A in a Granary that is stopped, and in a file cache."""
    data: str
    file_cache: str


class Used:
    """CPU seconds and peak memory of a server while something was done to it."""
    cpu = peak = None


@dataclasses.dataclass
class Bench:
    granary: str
    nginx: str
    nix: clients.Nix
    a: Closure
    r: Closure
    scratch: str
    report: Report
    profile: str | None
    seconds: int

    def start(self, data):
        return Granary(self.granary, data, f"{self.scratch}/granary.log")

    def warm_up(self):
        """The clients' input into the page cache, so that the first round is like the others."""
        for path in {*self.a.paths, *self.r.paths}:
            measure.read_all(measure.files(self.a.root + path))

    @contextlib.contextmanager
    def measured(self, server, phase):
        """Measures `server` until the end of the block and of what is left to do after it."""
        used = Used()
        measure.settle(server.pids)
        measure.forget_peak(server.pids)
        with self._perf(server, phase):
            before = measure.cpu_seconds(server.pids)
            yield used
            measure.settle(server.pids)
            server.alive()
            used.cpu = measure.cpu_seconds(server.pids) - before
        used.peak = measure.peak_memory(server.pids)

    @contextlib.contextmanager
    def _perf(self, server, phase):
        if not self.profile or server.name != "granary":
            yield
            return
        record = f"{self.profile}/{phase.replace(',', '').replace(' ', '-')}"
        to_perf, from_perf = os.pipe(), os.pipe()
        perf = subprocess.Popen(
            ["perf", "record", "-q", "-F", "499", "-o", f"{record}.data", "-p",
             str(server.child.pid), "--control", f"fd:{to_perf[0]},{from_perf[1]}"],
            pass_fds=(to_perf[0], from_perf[1]), stderr=subprocess.DEVNULL)
        os.close(to_perf[0])
        os.close(from_perf[1])
        try:
            # It answers when it has begun.
            os.write(to_perf[1], b"ping\n")
            if not os.read(from_perf[0], 16):
                raise RuntimeError("perf record did not start")
            yield
        finally:
            perf.terminate()
            perf.wait()
            os.close(to_perf[1])
            os.close(from_perf[0])
        with open(f"{record}.txt", "w") as f:
            subprocess.run(["perf", "report", "--stdio", "--no-children", "--sort", "dso,symbol",
                            "-i", f"{record}.data"], stdout=f, stderr=subprocess.DEVNULL)

    def ingest(self, directory):
        """A into an empty Granary and into an empty file cache, then R into both."""
        cache = f"{directory}/file-cache"
        peers, held = {}, 0
        for closure in (self.a, self.r):
            cpu = self.nix.copy(closure.top, f"file://{cache}?compression=zstd")
            total = measure.size(cache)
            peers[closure.variant] = cpu / closure.gigabytes, total - held
            held = total

        for compression in ("none", "zstd"):
            data = f"{directory}/{compression}"
            os.mkdir(data)
            with self.start(data) as server:
                packs = 0
                added = {}
                for closure, name in ((self.a, "new"), (self.r, "rebuilt")):
                    phase = f"ingest {name}, {compression}"
                    with self.measured(server, phase) as used:
                        client = self.nix.copy(
                            closure.top, f"{server.base}?compression={compression}", server.token)
                    total = measure.size(f"{data}/packs")
                    added[name], packs = total - packs, total
                    self._ingested(phase, closure, used, client, added, peers)
            if compression == "none":
                shutil.rmtree(data)
        return Stored(data, cache)

    def _ingested(self, phase, closure, used, client, added, peers):
        peer_cpu, peer_added = peers[closure.variant]
        server, client = used.cpu / closure.gigabytes, client / closure.gigabytes

        def row(figure, unit, value, peer):
            self.report.add(phase, figure, unit, value, peer, FILE_CACHE if peer else None)
        row("server", "CPU-s/GB", server, peer_cpu)
        row("client", "CPU-s/GB", client, peer_cpu)
        row("server + client", "CPU-s/GB", server + client, peer_cpu)
        if closure is self.a:
            row("stored / NAR", "bytes", added["new"] / closure.gigabytes / GB,
                peer_added / closure.gigabytes / GB)
        else:
            row("stored, of what A took", "bytes", added["rebuilt"] / added["new"],
                peer_added / peers["A"][1])
        row("server's peak memory", "MB", used.peak / MB, None)

    def serve(self, stored, verify):
        """All NARs of A: as zstd from both, plain from Granary alone."""
        for encoding in ("zstd", "plain"):
            measure.forget_pages(stored.data)
            with self.start(stored.data) as server:
                urls = self._nar_urls(server.base, plain=encoding == "plain")
                ours = self._pulls(server, urls, encoding)
                if verify:
                    for path, url in urls.items():
                        clients.verify(url, self.a.nar_sha256[path])
            theirs = {}
            if encoding == "zstd":
                measure.forget_pages(stored.file_cache)
                with self._nginx(stored) as server:
                    theirs = self._pulls(server, self._nar_urls(server.base, plain=False), encoding)
            for when, (cpu, sent, peak) in ours.items():
                phase = f"serve {encoding}, {when}"
                peer_cpu, peer_sent, peer_peak = theirs.get(when, (None, None, None))
                peer = "nginx" if theirs else None
                self.report.add(phase, "server", "CPU-s/GB", cpu, peer_cpu, peer)
                self.report.add(phase, "sent / NAR", "bytes", sent, peer_sent, peer)
                self.report.add(phase, "server's peak memory", "MB", peak, peer_peak, peer)

    def _nar_urls(self, base, plain):
        urls = {}
        for path in self.a.paths:
            url = clients.narinfo(base, path)["URL"]
            if not url.endswith(".nar.zst"):
                raise RuntimeError(f"{base}: the NAR of {path} is not offered as zstd but as {url}")
            urls[path] = f"{base}/{url.removesuffix('.zst') if plain else url}"
        return urls

    def _pulls(self, server, urls, encoding):
        """CPU seconds per GB, bytes sent per byte of NAR, and peak memory in MB, of the first pull
        and of the following ones."""
        found = {}
        for when, times in (("first", 1), ("following", WARM_PULLS)):
            with self.measured(server, f"serve {encoding}, {when}") as used:
                sent = sum(clients.pull(urls.values(), self.scratch) for _ in range(times))
            gigabytes = times * self.a.gigabytes
            found[when] = used.cpu / gigabytes, sent / gigabytes / GB, used.peak / MB
        return found

    @contextlib.contextmanager
    def _nginx(self, stored):
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="nginx-") as directory:
            with Nginx(self.nginx, stored.file_cache, directory) as server:
                yield server

    def narinfo(self, stored, chance):
        """narinfo requests that find something, and those that do not."""
        present = [clients.hash_part(path) + ".narinfo" for path in self.a.paths]
        absent = ["".join(chance.choices("0123456789abcdfghijklmnpqrsvwxyz", k=32)) + ".narinfo"
                  for _ in range(MISSES)]
        for kind, names in (("hit", present), ("miss", absent)):
            phase = f"narinfo {kind}"
            with self.start(stored.data) as server:
                ours = self._asked(server, phase, names)
            with self._nginx(stored) as server:
                theirs = self._asked(server, phase, names)
            for (figure, unit), value in ours.items():
                self.report.add(phase, figure, unit, value, theirs[figure, unit], "nginx")

    def _asked(self, server, phase, names):
        expect_found = phase == "narinfo hit"
        # Once round, so that neither server is measured with cold caches.
        clients.ask(server.base, names, 1, self.scratch, expect_found)
        with self.measured(server, phase) as used:
            requests = clients.ask(server.base, names, self.seconds, self.scratch, expect_found)
        return {("server", "us of CPU each"): used.cpu / requests * 1e6,
                ("server", "per CPU-s"): requests / used.cpu,
                ("server's peak memory", "MB"): used.peak / MB}

    def huge(self, nar, directory):
        """One huge NAR: up plain and as zstd, into an empty Granary each, and down again."""
        gigabytes = nar.size / GB
        for compression in ("none", "zstd"):
            data = f"{directory}/{compression}"
            os.mkdir(data)
            url, file, text = nar.narinfo(compression)
            narinfo = f"{directory}/narinfo"
            with open(narinfo, "w") as f:
                f.write(text)
            with self.start(data) as server:
                phase = f"huge NAR, {compression}"
                with self.measured(server, f"{phase}, up") as up:
                    clients.put(server, url, file, "application/x-nix-nar")
                    clients.put(server, f"{clients.hash_part(text.split()[1])}.narinfo", narinfo,
                                "text/x-nix-narinfo")
                offered = f"{server.base}/{clients.narinfo(server.base, text.split()[1])['URL']}"
                with self.measured(server, f"{phase}, down") as down:
                    clients.pull([offered], self.scratch)
                clients.verify(offered, nar.digest.hex())
                packs = measure.size(f"{data}/packs")
            shutil.rmtree(data)
            for way, used in (("up", up), ("down", down)):
                self.report.add(f"{phase}, {way}", "server", "CPU-s/GB", used.cpu / gigabytes)
                self.report.add(f"{phase}, {way}", "server's peak memory", "MB", used.peak / MB)
            self.report.add(f"{phase}, up", "stored / NAR", "bytes", packs / nar.size)
