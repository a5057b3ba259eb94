"""A way to the server that takes longer: see relay.c."""
import os
import socket
import subprocess
import threading
import time

BENCH = os.path.dirname(os.path.realpath(__file__))


def compile_c(name, directory):
    """Compiles NAME.c, returns the program."""
    program = f"{directory}/{name}"
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, f"{BENCH}/{name}.c"], check=True)
    return program


class Relay:
    """Connections to `port` of 127.0.0.1, with round-trip time added; ended with the `with` block."""

    def __init__(self, program, port, milliseconds, counters):
        self.counters = counters
        self.child = subprocess.Popen([program, str(port), str(milliseconds * 1000), counters],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        with self.child.stdout as said:
            self.port = int(said.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()

    def received(self):
        """Bytes that the server has sent."""
        with open(self.counters, "rb") as f:
            return int.from_bytes(f.read()[8:16], "little")


def throughput(program, milliseconds, counters, size=512 << 20):
    """Bytes per second over one connection through the relay, from its first byte on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def send():
            connection, _ = listener.accept()
            with connection:
                piece = bytes(1 << 20)
                for _ in range(size >> 20):
                    connection.sendall(piece)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        with Relay(program, listener.getsockname()[1], milliseconds, counters) as relay:
            with socket.create_connection(("127.0.0.1", relay.port)) as receiver:
                buffer = bytearray(1 << 20)
                got = receiver.recv_into(buffer)
                started = time.monotonic()
                while more := receiver.recv_into(buffer):
                    got += more
                took = time.monotonic() - started
        sender.join()
    if got != size:
        raise RuntimeError(f"the relay lost {size - got} bytes")
    return size / took
