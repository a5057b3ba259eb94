"""The servers under test: Granary, and nginx over a directory that `nix copy --to file://` wrote.

Both are children of this process, on a free port of 127.0.0.1. `base` is where the cache is,
`pids` are all the processes that do its work.
"""
import re
import socket
import subprocess
import time

START = 120.0
STOP = 60.0

NGINX = """\
daemon off;
master_process on;
user root;
worker_processes 2;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  log_not_found off;
  sendfile on;
  keepalive_requests 1000000000;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  types {{
    text/x-nix-narinfo narinfo;
    application/x-nix-nar nar zst;
  }}
  server {{
    listen 127.0.0.1:{port};
    root {root};
  }}
}}
"""


class Server:
    """A child process that is ended with the `with` block."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(STOP)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise RuntimeError(f"{self.name} still ran {STOP:.0f} s after SIGTERM") from None

    def alive(self):
        if self.child.poll() is not None:
            raise RuntimeError(f"{self.name} ended with status {self.child.returncode}, "
                               f"see {self.log}")


class Granary(Server):
    """`granary serve` on a data directory."""
    name = "granary"

    def __init__(self, binary, data, log):
        self.data, self.log = data, log
        with open(log, "ab") as output:
            started = output.tell()
            self.child = subprocess.Popen([binary, "serve", "--listen", "127.0.0.1:0", "--data", data],
                                          stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self.base = self._address(started)
            with open(f"{data}/root-token") as f:
                self.token = f.read().strip()
        except BaseException:
            self.child.kill()
            self.child.wait()
            raise
        self.pids = [self.child.pid]

    def _address(self, started):
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            self.alive()
            with open(self.log) as f:
                f.seek(started)
                found = re.search(r"http://127\.0\.0\.1:\d+/", f.read())
            if found:
                return found[0] + "default"
            time.sleep(0.02)
        raise RuntimeError(f"granary printed no address within {START:.0f} s, see {self.log}")


class Nginx(Server):
    """nginx as one would set it up for static files, with sendfile."""
    name = "nginx"

    def __init__(self, program, root, directory):
        self.log = f"{directory}/nginx.log"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        with open(f"{directory}/nginx.conf", "w") as f:
            f.write(NGINX.format(dir=directory, port=port, root=root))
        self.child = subprocess.Popen([program, "-c", f"{directory}/nginx.conf", "-e", self.log])
        self.base = f"http://127.0.0.1:{port}"
        try:
            self.pids = [self.child.pid, *self._workers(port)]
        except BaseException:
            self.child.kill()
            self.child.wait()
            raise

    def _workers(self, port):
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            self.alive()
            with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children") as f:
                workers = [int(pid) for pid in f.read().split()]
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                workers = []
            if len(workers) == 2:
                return workers
            time.sleep(0.02)
        raise RuntimeError(f"nginx did not start within {START:.0f} s, see {self.log}")
