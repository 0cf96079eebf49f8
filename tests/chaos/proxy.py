"""A TCP proxy that drops or delays what passes through it."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time


class Proxy:
    """Between its own port and a server's; ``cut`` and ``delay`` are the faults."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._cut = False
        self.delay = 0.0  #: seconds that each piece is held up
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, cut: bool) -> None:
        """Break all connections and refuse new ones, or let them through again."""
        self._cut = cut
        with self._lock:
            pairs = list(self._pairs) if cut else []
        for pair in pairs:
            self._close(pair)

    def close(self) -> None:
        self.cut(True)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._cut:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._pump, args=(pair,), daemon=True).start()

    def _pump(self, pair: tuple[socket.socket, socket.socket]) -> None:
        other = {pair[0]: pair[1], pair[1]: pair[0]}
        try:
            while True:
                for end in select.select(pair, (), ())[0]:
                    piece = end.recv(65536)
                    if not piece:
                        return
                    if self.delay:
                        time.sleep(self.delay)
                    other[end].sendall(piece)
        except (OSError, ValueError):
            return
        finally:
            self._close(pair)

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
