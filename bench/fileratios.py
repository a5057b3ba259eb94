"""What reading through the mount costs, beside the same files in the native file system."""
import dataclasses
import os
import random
import statistics
import subprocess
import tempfile

import measure
import mounts
from mounts import Mount
from relay import BENCH

NATIVE = "native"
REPEATS = 5
COLD = 3
FILES, FOLDERS = 20000, 200
PIECE = 1 << 20
FEW_SYMBOLS = bytes(b"etaoinshrdlucmfw"[i % 16] for i in range(256))
MODES = {"base": [], "passthrough": ["--passthrough"]}


@dataclasses.dataclass
class Work:
    """What is run in `folder`, in a store that is bound to /nix/store: once when cold, and warm so
    often that the start of a process does not show."""
    name: str
    cold: list
    warm: list
    folder: str | None = None


def make_large(path, size, noise):
    """Half of it random, half random over few symbols, which zstd halves."""
    with open(path, "wb") as f:
        for at in range(size // PIECE):
            piece = noise.randbytes(PIECE)
            f.write(piece if at % 2 else piece.translate(FEW_SYMBOLS))


def make_small(directory, noise):
    """Files of 100 bytes to 8 KiB, most of them short, all different."""
    for folder in range(FOLDERS):
        os.makedirs(f"{directory}/{folder:03}")
        for number in range(FILES // FOLDERS):
            size = int(100 * 82 ** noise.random())
            with open(f"{directory}/{folder:03}/{number:03}", "wb") as f:
                f.write(noise.randbytes(size).translate(FEW_SYMBOLS))


class Data:
    """The store paths that are read, in a chroot store; the native side reads that itself."""

    def __init__(self, nix, scratch, gib):
        self.nix, self.scratch, self.root = nix, scratch, f"{scratch}/native"
        noise = random.Random(5)
        make_large(f"{scratch}/large", int(gib * (1 << 30)) // PIECE * PIECE, noise)
        self.large = self._add(f"{scratch}/large")
        make_small(f"{scratch}/small", noise)
        self.small = self._add(f"{scratch}/small")
        self.list = f"{scratch}/list"
        with open(self.list, "w") as f:
            for folder in range(FOLDERS):
                f.writelines(f"{folder:03}/{number:03}\n" for number in range(FILES // FOLDERS))

    def _add(self, path):
        environment = {"PATH": "/usr/bin:/bin", "HOME": self.scratch, "NIX_CONF_DIR": self.scratch,
                       "NIX_CONFIG": "build-users-group =", "NIX_REMOTE": f"local?root={self.root}"}
        added = subprocess.run([f"{os.path.dirname(self.nix)}/nix-store", "--add", path], check=True,
                               env=environment, text=True, stdout=subprocess.PIPE)
        subprocess.run(["rm", "-r", path], check=True)
        return added.stdout.strip()

    @property
    def paths(self):
        return [self.large, self.small]


def work(data, closure, worker):
    """What is measured. The last two read the closure, the others the made paths."""
    def package(name):
        [path] = [path for path in closure.paths if name in path]
        return path
    top, linux = closure.top, package("-linux-libc-dev-")
    libc, cpp = package("-libc6-dev-"), package("-libstdc++-12-dev-")
    gcc = f"{top}/lib/gcc/x86_64-linux-gnu/12"
    folders = [f"{cpp}/include/c++/12", f"{cpp}/include/x86_64-linux-gnu/c++/12", f"{gcc}/include",
               *(f"{path}/include{sub}" for path in (libc, linux) for sub in ("", "/x86_64-linux-gnu"))]
    compile_cpp = [f"{top}/bin/g++", "-nostdinc", "-nostdinc++", "-fsyntax-only",
                   f"-B{gcc}/", f"-B{top}/bin/", *(f"-isystem{folder}" for folder in folders),
                   f"{BENCH}/headers.cc"]

    def python(times):
        script = 'i=0; while [ $i -lt "$2" ]; do "$1" -c "import asyncio, email, json"; i=$((i+1)); done'
        return ["sh", "-ec", script, "sh", f"{top}/bin/python3.11", str(times)]

    def dd(times):
        return ["sh", "-ec", 'for f; do dd if="$f" of=/dev/null bs=1M status=none; done', "sh",
                *[data.large] * times]

    def on_list(kind, times):
        return [worker, kind, data.list, str(times)]

    def find(times):
        return ["find", *["."] * times, "-name", "nothing"]
    made, real = f"{data.root}/nix/store", f"{closure.root}/nix/store"
    return [
        (made, Work("read 1 GiB", dd(1), dd(2))),
        (made, Work("random 4 KiB x 4", [worker, "random", data.large, "2000"],
                    [worker, "random", data.large, "2000"])),
        (made, Work("20 000 small files", on_list("open", 1), on_list("open", 5), data.small)),
        (made, Work("stat of 20 000", on_list("stat", 1), on_list("stat", 10), data.small)),
        (made, Work("find 20 000", find(1), find(10), data.small)),
        (real, Work("python starts", python(1), python(10))),
        (real, Work("g++, 560 headers", compile_cpp, compile_cpp)),
    ]


@dataclasses.dataclass
class FileRatios:
    granary: str
    server: object
    scratch: str
    report: object
    works: list

    def round(self):
        for native, work in self.works:
            for mode, options in MODES.items():
                with tempfile.TemporaryDirectory(dir=self.scratch, prefix="cache-") as cache:
                    self.measure(native, work, mode, [f"{cache}/cache", "--no-profiles", *options])

    def run(self, store, command, folder):
        with mounts.bound(store):
            return mounts.run(command, cwd=folder)

    def measure(self, native, work, mode, options):
        with self.mount(options) as mount:
            mounts.drop_caches()
            first, used = self.beside(mount, work)
            self.warm(mount, native, work, mode)
        # The same data, but its pages and inodes must be found again. More than once, as a virtual
        # machine pays for memory that it has not used lately.
        ours, theirs = [], []
        for _ in range(COLD):
            with self.mount(options) as mount:
                mounts.drop_caches()
                ours.append(self.beside(mount, work))
            mounts.drop_caches()
            theirs.append(self.run(native, work.cold, work.folder))
        theirs = mounts.median(theirs)
        self.add(work, mode, "nothing cached", first, used, theirs)
        self.add(work, mode, "cold", mounts.median([ran for ran, _ in ours]),
                 statistics.median(used for _, used in ours), theirs)

    def mount(self, options):
        return Mount(self.granary, self.server.base, f"{self.scratch}/mnt", *options)

    def beside(self, mount, work):
        """One cold run from the mount, and the CPU time of the mount's process."""
        return mounts.cpu_of(mount.pids, lambda: self.run(mount.mountpoint, work.cold, work.folder))

    def warm(self, mount, native, work, mode):
        # Once for each, as caches were dropped, and what is pushed to the kernel comes after the read.
        for store in (native, mount.mountpoint):
            self.run(store, work.warm, work.folder)
        before = mount.messages()
        runs, used = mounts.cpu_of(mount.pids, lambda: [
            (self.run(mount.mountpoint, work.warm, work.folder),
             self.run(native, work.warm, work.folder)) for _ in range(REPEATS)])
        ours, theirs = (mounts.median(side) for side in zip(*runs))
        self.add(work, mode, "warm", ours, used / REPEATS, theirs)
        messages = (mount.messages() - before) / REPEATS
        self.report.add(f"{work.name}, {mode}, warm", "messages, at most", "", messages)

    def add(self, work, mode, state, ours, mount, theirs):
        phase = f"{work.name}, {mode}, {state}"
        self.report.add(phase, "wall", "s", ours.wall, theirs.wall, NATIVE)
        self.report.add(phase, "CPU", "s", ours.cpu + mount, theirs.cpu, NATIVE)
