"""The clients that put load on a server: `nix copy`, curl, wrk. What they cost counts only where a
function returns it; whether they got what they asked for is checked always.
"""
import hashlib
import os
import re
import subprocess
import tempfile
import urllib.request

CONNECTIONS = 4
WRK_CONNECTIONS = 16

WRK_SCRIPT = """\
local requests, at = {}, 0
function init(args)
  for path in io.lines(args[1]) do requests[#requests + 1] = wrk.format("GET", path) end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d\\n", summary.requests, e.status,
                         e.connect + e.read + e.write + e.timeout))
end
"""


class Nix:
    """A Nix client that reads the chroot store `root`."""

    def __init__(self, program, root, scratch):
        self.program, self.root, self.scratch = program, root, scratch

    def copy(self, top, url, token=""):
        """`nix copy --to url top` with a home of its own, so that no narinfo is remembered.
        Returns its CPU seconds."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="home-") as home:
            with open(f"{home}/netrc", "w") as f:
                f.write(f"machine 127.0.0.1 login any password {token}\n")
            with open(f"{home}/nix.conf", "w") as f:
                f.write("experimental-features = nix-command\nsubstituters =\n"
                        f"netrc-file = {home}/netrc\n")
            environment = {"PATH": "/usr/bin:/bin", "HOME": home, "NIX_CONF_DIR": home,
                           "NIX_REMOTE": f"local?root={self.root}"}
            with open(f"{home}/log", "wb") as log:
                child = subprocess.Popen([self.program, "copy", "--to", url, top], env=environment,
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                try:
                    # Not child.wait(): only wait4 tells what it used.
                    _, status, usage = os.wait4(child.pid, 0)
                except BaseException:
                    child.kill()
                    child.wait()
                    raise
                child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                with open(f"{home}/log", errors="replace") as log:
                    raise RuntimeError(f"nix copy --to {url} ended with {child.returncode}:\n"
                                       + log.read()[-2000:])
            return usage.ru_utime + usage.ru_stime


def fetch(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def narinfo(base, store_path):
    """The fields of the narinfo that `base` has for a store path."""
    text = fetch(f"{base}/{hash_part(store_path)}.narinfo").decode()
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def hash_part(store_path):
    return os.path.basename(store_path)[:32]


def pull(urls, scratch):
    """Downloads everything and keeps nothing, over a few connections that are kept alive. Returns
    the bytes that came."""
    config = f"{scratch}/pull.curl"
    with open(config, "w") as f:
        for url in urls:
            f.write(f'url = "{url}"\noutput = "/dev/null"\n')
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--parallel", "--parallel-max", str(CONNECTIONS),
         "--write-out", "%{stdout}%{http_code} %{size_download}\n", "--config", config],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    bad = [status for status, _ in rows if status != "200"]
    if done.returncode != 0 or bad or len(rows) != len(urls):
        raise RuntimeError(f"pulling {len(urls)} NARs: curl ended with {done.returncode}, "
                           f"{len(rows)} answers, statuses other than 200: {bad[:5]}\n"
                           + done.stderr[-1000:])
    return sum(int(size) for _, size in rows)


def verify(url, nar_sha256):
    """Fails unless the NAR at `url`, a zstd stream or plain, is the one with that hash."""
    curl = subprocess.Popen(["curl", "--silent", "--show-error", "--fail", url],
                            stdout=subprocess.PIPE)
    stages, nar = [curl], curl.stdout
    if url.endswith(".zst"):
        stages.append(subprocess.Popen(["zstd", "-dcq"], stdin=nar, stdout=subprocess.PIPE))
        nar.close()
        nar = stages[-1].stdout
    found = hashlib.sha256()
    while piece := nar.read(1 << 20):
        found.update(piece)
    nar.close()
    if any([stage.wait() for stage in stages]) or found.hexdigest() != nar_sha256:
        raise RuntimeError(f"{url} is not the NAR it should be")


def ask(base, names, seconds, scratch, expect_found):
    """GETs `names` below `base` in turn for some seconds, over connections that are kept alive.
    Returns the number of answers."""
    prefix = re.sub(r"^http://[^/]*", "", base)
    with open(f"{scratch}/wrk.paths", "w") as f:
        f.writelines(f"{prefix}/{name}\n" for name in names)
    with open(f"{scratch}/wrk.lua", "w") as f:
        f.write(WRK_SCRIPT)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{WRK_CONNECTIONS}", f"-d{seconds}s", "-s", f"{scratch}/wrk.lua", base,
         "--", f"{scratch}/wrk.paths"], stdout=subprocess.PIPE, text=True, check=True)
    found = re.search(r"^RESULT (\d+) (\d+) (\d+)$", done.stdout, re.M)
    if not found:
        raise RuntimeError(f"wrk gave no result:\n{done.stdout}")
    requests, not_found, errors = map(int, found.groups())
    wrong = not_found if expect_found else requests - not_found
    if requests == 0 or wrong or errors:
        raise RuntimeError(f"of {requests} narinfo requests {wrong} were answered otherwise than "
                           f"expected, {errors} not at all")
    return requests


def put(server, name, body, content_type):
    """PUTs a file with the server's own token."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--upload-file", body, "--user", f"any:{server.token}",
         "--header", f"Content-Type: {content_type}", "--write-out", "\n%{http_code}",
         f"{server.base}/{name}"], stdout=subprocess.PIPE, text=True)
    status = done.stdout.rpartition("\n")[2]
    if done.returncode != 0 or not status.startswith("2"):
        raise RuntimeError(f"PUT {name}: {status} {done.stdout[:500]}")
