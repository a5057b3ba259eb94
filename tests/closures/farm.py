"""Derivation builder: a tree of symlinks into every path of $deps, as a NixOS system has."""
import os

OUT = os.environ["out"]
DEPS = os.environ["deps"].split()
SHARED = ("bin", "sbin", "lib", "etc", "share/man", "share/doc", "share/bundle")


def link_tree(source, target):
    os.makedirs(target, exist_ok=True)
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        destination = f"{target}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if not os.path.islink(destination):
                link_tree(entry.path, destination)
        elif not os.path.lexists(destination):
            os.symlink(entry.path, destination)


for dep in DEPS:
    for part in SHARED:
        if os.path.isdir(f"{dep}/{part}") and not os.path.islink(f"{dep}/{part}"):
            link_tree(f"{dep}/{part}", f"{OUT}/{part}")
os.makedirs(f"{OUT}/nix-support", exist_ok=True)
with open(f"{OUT}/nix-support/deps", "w") as f:
    f.writelines(f"{dep}\n" for dep in DEPS)
