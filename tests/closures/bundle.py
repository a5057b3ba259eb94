"""Derivation builder: one file of at least $bytes bytes, made of the largest programs and
libraries of $deps one after the other, each behind a line that names it (hence references)."""
import os
import shutil

OUT = os.environ["out"]
WANTED = int(os.environ["bytes"])


def elf_files():
    for dep in os.environ["deps"].split():
        for parent, _, names in os.walk(dep):
            for name in names:
                path = f"{parent}/{name}"
                if os.path.islink(path):
                    continue
                with open(path, "rb") as f:
                    if f.read(4) == b"\x7fELF":
                        yield os.path.getsize(path), path


os.makedirs(f"{OUT}/share/bundle")
with open(f"{OUT}/share/bundle/everything.bin", "wb") as bundle:
    for size, path in sorted(elf_files(), key=lambda e: (-e[0], e[1])):
        bundle.write(f"{path} {size}\n".encode())
        with open(path, "rb") as f:
            shutil.copyfileobj(f, bundle, 1 << 20)
        if bundle.tell() >= WANTED:
            break
    if bundle.tell() < WANTED:
        raise SystemExit(f"the closure has only {bundle.tell()} bytes of ELF files, {WANTED} wanted")
