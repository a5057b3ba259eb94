"""A mount as a child process, and programs that are run beside it, in namespaces of the bench's own.

The namespaces keep what happens here to itself: mounts end with the last process, processes with
the first, and the loopback device carries only what the bench sends.
"""
import contextlib
import dataclasses
import os
import re
import signal
import statistics
import subprocess
import time

import measure

INSIDE = "GRANARY_BENCH_INSIDE"
STORE = "/nix/store"


def enter(arguments, environment):
    """Runs this program once more, in namespaces of its own; returns how it ended."""
    child = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "--net", "--pid", "--mount-proc", "--fork",
         "--kill-child", *arguments], env={**environment, INSIDE: "1"})
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            # The namespace's first process, and with it all others; it ends after them.
            with open(f"/proc/{child.pid}/task/{child.pid}/children") as f:
                for first in f.read().split():
                    os.kill(int(first), signal.SIGKILL)
            child.wait()


def is_inside():
    return INSIDE in os.environ


def start_loopback():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def loopback_bytes():
    """Bytes that the loopback device has carried, headers included."""
    with open("/proc/self/net/dev") as f:
        [fields] = [line.split() for line in f if line.lstrip().startswith("lo:")]
    return int(fields[1])


@contextlib.contextmanager
def bound(directory):
    """`directory` as the Nix store."""
    subprocess.run(["mount", "--bind", directory, STORE], check=True)
    try:
        yield
    finally:
        # What ran from it is gone, but the kernel may not have noticed.
        subprocess.run(["umount", "--lazy", STORE], check=True)


def drop_caches():
    """Empties the page, directory entry and inode caches of the whole machine."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


@dataclasses.dataclass
class Ran:
    """What a command took: wall and CPU seconds, its children's included."""
    wall: float
    cpu: float
    output: str = ""


def median(runs):
    return Ran(statistics.median(r.wall for r in runs), statistics.median(r.cpu for r in runs))


def run(command, **options):
    """Runs a command that must succeed, with standard output caught."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, errors="replace", **options)
    try:
        output = child.stdout.read()
        # Not child.wait(): only wait4 tells what it used.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        child.kill()
        raise
    finally:
        child.stdout.close()
    wall = time.monotonic() - started
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {child.returncode}:\n{output[-2000:]}")
    return Ran(wall, usage.ru_utime + usage.ru_stime, output)


class Mount:
    """`granary mount` in the foreground, unmounted with the `with` block."""
    END = 30

    def __init__(self, granary, url, mountpoint, cache, *options):
        self.granary, self.mountpoint, self.log = granary, mountpoint, f"{cache}.log"
        os.makedirs(mountpoint, exist_ok=True)
        started = time.monotonic()
        with open(self.log, "ab") as log:
            self.logged = log.tell()
            self.child = subprocess.Popen(
                [granary, "mount", url, mountpoint, "--cache-dir", cache, "--foreground",
                 "--tell-ready", *options], env={"PATH": "/usr/bin:/bin", "HOME": f"{cache}.home"},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        with self.child.stdout as said:
            ready = said.readline()
        self.took = time.monotonic() - started
        if ready.strip() != "ready":
            self.child.wait()
            raise RuntimeError(f"granary mount {' '.join(options)} failed:\n{self._said()}")
        self.pids = [self.child.pid]
        self.cpu = self.fetched = self.questions = None

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        if failed:
            subprocess.run(["umount", "--lazy", self.mountpoint], stderr=subprocess.DEVNULL)
            self.child.kill()
            self.child.wait()
        elif self.child.returncode is None:
            self.end()

    def _said(self):
        with open(self.log, errors="replace") as f:
            f.seek(self.logged)
            return f.read()[-4000:]

    def messages(self):
        """Reads that the mount's process has made: one or two for each message of the kernel's, and
        some of its own."""
        with open(f"/proc/{self.child.pid}/io") as f:
            return int(re.search(r"^syscr: (\d+)$", f.read(), re.M)[1])

    def end(self):
        """Unmounts; `cpu` is what the process used in all, `fetched` the bytes of chunks and
        `questions` the requests for them that it says it sent."""
        run([self.granary, "umount", self.mountpoint])
        alarm = signal.signal(signal.SIGALRM, self._late)
        signal.alarm(self.END)
        try:
            _, status, usage = os.wait4(self.child.pid, 0)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, alarm)
        self.child.returncode = os.waitstatus_to_exitcode(status)
        said = self._said()
        told = re.findall(r"bytes=(\d+).*?questions=(\d+)", said)
        if self.child.returncode != 0 or not told:
            raise RuntimeError(f"granary mount ended with {self.child.returncode}:\n{said}")
        self.cpu = usage.ru_utime + usage.ru_stime
        self.fetched, self.questions = map(int, told[-1])

    def _late(self, *_):
        raise RuntimeError(f"granary mount still ran {self.END} s after it was unmounted:\n{self._said()}")


def cpu_of(pids, work):
    """What `work` returns, and the CPU time that processes used for it, until they are idle."""
    measure.settle(pids)
    before = measure.cpu_seconds(pids)
    found = work()
    measure.settle(pids)
    return found, measure.cpu_seconds(pids) - before
