"""What a process has cost so far: CPU time, peak memory, bytes on disk.

CPU time is the kernel's own sum over all threads of a process, those that have ended included: the
figure behind utime + stime in /proc/PID/stat, which that file rounds to hundredths of a second and
the process's CPU clock gives in nanoseconds.
"""
import os
import time

# Background work counts, too: a server is waited for until it does less than this, but not for ever.
IDLE_SHARE = 0.02
SETTLE_STEP = 0.5
SETTLE_MOST = 20.0

# clock_getcpuclockid(3): the process id, complemented, above three bits that say "whole process".
CPUCLOCK_SCHED = 2


def cpu_seconds(pids):
    """CPU time that the processes `pids` have used, user and system."""
    return sum(time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED) for pid in pids)


def settle(pids):
    """Waits until `pids` have nothing left to do."""
    deadline = time.monotonic() + SETTLE_MOST
    while time.monotonic() < deadline:
        before = cpu_seconds(pids)
        time.sleep(SETTLE_STEP)
        if cpu_seconds(pids) - before < IDLE_SHARE * SETTLE_STEP:
            return


def peak_memory(pids):
    """The most memory, in bytes, that `pids` had resident since forget_peak; shared pages count
    once per process."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as f:
            [kilobytes] = [line.split()[1] for line in f if line.startswith("VmHWM:")]
        total += int(kilobytes) * 1024
    return total


def forget_peak(pids):
    """Starts peak_memory anew (proc(5), clear_refs)."""
    for pid in pids:
        with open(f"/proc/{pid}/clear_refs", "w") as f:
            f.write("5")


def files(directory):
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def size(directory):
    """Bytes in the files of a directory that must be there."""
    os.stat(directory)
    return sum(os.stat(path).st_size for path in files(directory))


def read_all(paths):
    """Brings files into the page cache."""
    buffer = bytearray(1 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass


def forget_pages(directory):
    """Drops the files of a directory from the page cache, and nothing else of this machine's."""
    for path in files(directory):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
