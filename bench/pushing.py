"""New data to push, and the clients that push it from a store of their own."""
import os
import subprocess
import tempfile
import time

PIECE = 1 << 20
FEW_SYMBOLS = bytes(b"etaoinshrdlucmfw"[i % 16] for i in range(256))


def write_file(path, size, noise):
    """Half of it random, half random over few symbols, which zstd halves."""
    with open(path, "wb") as f:
        for at in range(size // PIECE):
            piece = noise.randbytes(PIECE)
            f.write(piece if at % 2 else piece.translate(FEW_SYMBOLS))


class Client:
    """Clients that read the store `root`, with a home of their own."""

    def __init__(self, nix, root, scratch):
        self.nix, self.root, self.scratch = nix, root, scratch
        with open(f"{scratch}/nix.conf", "w") as f:
            f.write("build-users-group =\n")

    def add(self, path):
        environment = self.environment(self.scratch)
        added = subprocess.run([f"{os.path.dirname(self.nix)}/nix-store", "--add", path], check=True,
                               env=environment, text=True, stdout=subprocess.PIPE)
        return added.stdout.strip()

    def run(self, command, token):
        """CPU seconds, wall seconds and peak memory in MB of a client's command."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="home-") as home:
            with open(f"{home}/netrc", "w") as f:
                f.write(f"machine 127.0.0.1 login any password {token}\n")
            with open(f"{home}/nix.conf", "w") as f:
                f.write("experimental-features = nix-command\nsubstituters =\n"
                        f"netrc-file = {home}/netrc\n")
            environment = self.environment(home, token)
            started = time.monotonic()
            with open(f"{home}/log", "wb") as log:
                child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=log)
                # Not child.wait(): only wait4 tells what it used.
                _, status, usage = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
            wall = time.monotonic() - started
            if child.returncode != 0:
                with open(f"{home}/log", errors="replace") as log:
                    raise RuntimeError(f"{command[0]} {command[1]} ended with {child.returncode}:\n"
                                       + log.read()[-2000:])
            return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1000

    def environment(self, home, token=""):
        """What such a command is to run with."""
        return {"PATH": "/usr/bin:/bin", "HOME": home, "NIX_CONF_DIR": home,
                "NIX_REMOTE": f"local?root={self.root}", "GRANARY_TOKEN": token}
