"""One huge NAR, of a single file, made on the fly: a quarter of it random, a quarter random over few
symbols (halves when compressed), a quarter zeros, and a quarter repeats of earlier pieces at other
offsets. The same bytes every time.
"""
import hashlib
import random
import subprocess

PIECE = 1 << 20
FEW_SYMBOLS = bytes(b"etaoinshrdlucmfw"[i % 16] for i in range(256))
NIX32 = "0123456789abcdfghijklmnpqrsvwxyz"
STORE_PATH = "/nix/store/" + "h" * 32 + "-huge"


def pieces(count):
    noise = random.Random(4)
    # Few enough to keep in memory; all of them early, so that repeats lie outside zstd's window.
    earlier = []
    for at in range(count):
        kind = at % 4
        if kind == 0:
            piece = noise.randbytes(PIECE)
        elif kind == 1:
            piece = noise.randbytes(PIECE).translate(FEW_SYMBOLS)
        elif kind == 2:
            piece = bytes(PIECE)
        else:
            cut = noise.randrange(1, PIECE)
            first, second = noise.choice(earlier), noise.choice(earlier)
            piece = first[cut:] + second[:cut]
        if kind < 2 and len(earlier) < 64:
            earlier.append(piece)
        yield piece


def string(text):
    return len(text).to_bytes(8, "little") + text + bytes(-len(text) % 8)


def nix32(digest):
    """Nix's base 32: the least significant bits last, five at a time."""
    number = int.from_bytes(digest, "little")
    length = (len(digest) * 8 + 4) // 5
    return "".join(NIX32[number >> 5 * i & 31] for i in reversed(range(length)))


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


class HugeNar:
    """The NAR as a file, plain and as zstd."""

    def __init__(self, directory, size):
        """`size` is the file's, in bytes, a multiple of PIECE."""
        self.plain, self.zstd = f"{directory}/huge.nar", f"{directory}/huge.nar.zst"
        before = [b"nix-archive-1", b"(", b"type", b"regular", b"contents"]
        with open(self.plain, "wb") as f:
            f.write(b"".join(map(string, before)) + size.to_bytes(8, "little"))
            for piece in pieces(size // PIECE):
                f.write(piece)
            f.write(string(b")"))
            self.size = f.tell()
        self.digest = digest(self.plain)
        subprocess.run(["zstd", "-q", "-3", "-o", self.zstd, self.plain], check=True)

    def narinfo(self, compression):
        """What a client sends after the NAR: the NAR's name, its file, the narinfo's text."""
        file = {"none": self.plain, "zstd": self.zstd}[compression]
        with open(file, "rb") as f:
            file_size = f.seek(0, 2)
        file_hash = nix32(digest(file))
        url = f"nar/{file_hash}.nar" + {"none": "", "zstd": ".zst"}[compression]
        return url, file, (
            f"StorePath: {STORE_PATH}\nURL: {url}\nCompression: {compression}\n"
            f"FileHash: sha256:{file_hash}\nFileSize: {file_size}\n"
            f"NarHash: sha256:{nix32(self.digest)}\nNarSize: {self.size}\nReferences: \n")
