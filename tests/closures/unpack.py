"""Derivation builder: turns one Debian package ($file, in /debs) into a store path.

usr/ is merged into the top, as Nix packages have it, and what a Debian package finds through
absolute paths is pointed at store paths: ELF interpreters and run paths, `#!` lines, symlinks.
Nix's scanner then finds the same references a package built by Nix would have.
"""
import hashlib
import os
import re
import shutil
import stat
import struct
import subprocess

OUT = os.environ["out"]
DEPS = os.environ["deps"].split()
LIBS = "lib/x86_64-linux-gnu"
LOADER = f"{LIBS}/ld-linux-x86-64.so.2"
# These are the dynamic loader and its kin: patched, they no longer start.
LEFT_ALONE = ("libc6", "libc-bin")

DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 1, 5, 15, 29
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
ET_EXEC, ET_DYN = 2, 3


def unpack():
    archive = f"/debs/{os.environ['file']}"
    with open(archive, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    if digest != os.environ["sha256"]:
        raise SystemExit(f"{archive} is not the file that was locked")
    os.umask(0o022)
    os.makedirs(OUT)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as deb:
        # Without the set-user-id bits: Nix forbids them in a build.
        subprocess.run(
            ["tar", "-x", "--no-same-owner", "--no-same-permissions", "-C", OUT],
            stdin=deb.stdout, check=True)
    if deb.returncode:
        raise SystemExit(f"dpkg-deb could not read {archive}")
    if os.path.isdir(f"{OUT}/usr"):
        move_into(f"{OUT}/usr", OUT)
    if os.environ["salt"]:
        os.makedirs(f"{OUT}/share", exist_ok=True)
        with open(f"{OUT}/share/rebuild", "w") as f:
            f.write(os.environ["salt"] + "\n")


def move_into(source, target):
    for entry in os.scandir(source):
        destination = f"{target}/{entry.name}"
        if entry.is_dir(follow_symlinks=False) and os.path.isdir(destination) \
                and not os.path.islink(destination):
            move_into(entry.path, destination)
        elif not os.path.lexists(destination):
            os.rename(entry.path, destination)
    shutil.rmtree(source)


def in_store(path):
    """Where the absolute Debian path `path` is now: in this package, else in a dependency."""
    path = os.path.normpath(path)
    for place in dict.fromkeys((path.removeprefix("/usr"), path)):
        for root in [OUT, *DEPS]:
            if os.path.lexists(root + place):
                return root + place
    return None


def fix_symlink(path):
    target = os.readlink(path)
    if not target.startswith("/"):
        parent = os.path.dirname(path)
        if os.path.lexists(os.path.join(parent, target)):
            return
        target = os.path.join(parent[len(OUT):] or "/", target)
    found = in_store(target)
    if found and found != path:
        os.unlink(path)
        os.symlink(found, path)


class Elf:
    """What patching needs to know of a dynamically linked 64-bit ELF file."""

    def __init__(self, data):
        kind, = struct.unpack_from("<H", data, 16)
        if data[4:6] != b"\x02\x01" or kind not in (ET_EXEC, ET_DYN):
            raise ValueError("not a 64-bit little-endian program or library")
        table, = struct.unpack_from("<Q", data, 32)
        entry_size, entries = struct.unpack_from("<HH", data, 54)
        headers = [struct.unpack_from("<IIQQQQ", data, table + i * entry_size)
                   for i in range(entries)]
        self.has_interpreter = any(h[0] == PT_INTERP for h in headers)
        dynamic = next((h for h in headers if h[0] == PT_DYNAMIC), None)
        if dynamic is None:
            raise ValueError("statically linked")
        tags = [struct.unpack_from("<qQ", data, dynamic[2] + i)
                for i in range(0, dynamic[5] - 15, 16)]
        address = next(v for tag, v in tags if tag == DT_STRTAB)
        strings = next(address - h[3] + h[2] for h in headers
                       if h[0] == PT_LOAD and h[3] <= address < h[3] + h[5])

        def text(offset):
            start = strings + offset
            return data[start:data.index(b"\0", start)].decode()

        self.needed = [text(v) for tag, v in tags if tag == DT_NEEDED]
        self.run_path = [p for tag, v in tags if tag in (DT_RPATH, DT_RUNPATH)
                         for p in text(v).split(":") if p]


def fix_elf(path):
    with open(path, "rb") as f:
        data = f.read()
    try:
        elf = Elf(data)
    except (ValueError, StopIteration, struct.error, UnicodeDecodeError):
        return  # nothing to patch: static, a core of another machine, a kernel module
    run_path = []
    for library in elf.needed:
        run_path += [f"{root}/{LIBS}" for root in [OUT, *DEPS]
                     if os.path.lexists(f"{root}/{LIBS}/{library}")][:1]
    for old in elf.run_path:  # a private directory such as /usr/lib/x86_64-linux-gnu/systemd
        run_path.append(old if old.startswith("$ORIGIN") else in_store(old))
    run_path = list(dict.fromkeys(filter(None, run_path)))
    loader = next((f"{d}/{LOADER}" for d in DEPS if os.path.exists(f"{d}/{LOADER}")), None)
    change = []
    if elf.has_interpreter and loader:
        change += ["--set-interpreter", loader]
    if run_path:
        change += ["--set-rpath", ":".join(run_path)]
    if change:
        os.chmod(path, os.stat(path).st_mode | stat.S_IWUSR)
        # A file patchelf cannot grow stays as Debian made it.
        subprocess.run(["patchelf", *change, path], stderr=subprocess.DEVNULL, check=False)


def fix_script(path):
    with open(path, "rb") as f:
        data = f.read()
    line = re.match(rb"#!\s*(?:/usr/bin/env\s+)?(\S+)", data)
    if not line:
        return
    interpreter = os.fsdecode(line[1])
    found = in_store(interpreter if interpreter.startswith("/") else f"/bin/{interpreter}")
    if found:
        os.chmod(path, os.stat(path).st_mode | stat.S_IWUSR)
        with open(path, "wb") as f:
            f.write(b"#!" + os.fsencode(found) + data[line.end():])


def fix_file(path):
    mode = os.lstat(path).st_mode
    if not stat.S_ISREG(mode):
        return
    with open(path, "rb") as f:
        start = f.read(20)
    if start.startswith(b"\x7fELF") and len(start) == 20:
        if os.environ["package"] not in LEFT_ALONE and not path.endswith((".o", ".ko", ".debug")):
            fix_elf(path)
    elif start.startswith(b"#!") and mode & 0o111:
        fix_script(path)


unpack()
for parent, directories, files in os.walk(OUT):
    for name in directories + files:
        path = os.path.join(parent, name)
        if os.path.islink(path):
            fix_symlink(path)
        elif name in files:
            fix_file(path)
os.makedirs(f"{OUT}/nix-support", exist_ok=True)
with open(f"{OUT}/nix-support/deps", "w") as f:
    f.writelines(f"{dep}\n" for dep in DEPS)
