"""Sockets for the checks.

    sockets.py serve NAME                    TCP on 8080 and SCTP on 9999, both families: answers with the name
    sockets.py ask ADDRESS PORT PROTOCOL     connects and prints the answer, or the error
"""

import errno
import socket
import sys
import threading

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "sctp": 132}


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen(name, family, protocol, port):
    try:
        server = socket.socket(family, socket.SOCK_STREAM, protocol)
    except OSError:
        return  # The kernel has no such family or protocol.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("", port))
    server.listen(64)
    while True:
        connection, _ = server.accept()
        connection.recv(16)
        connection.sendall(name.encode())
        connection.close()


def serve(name):
    threads = [
        threading.Thread(target=listen, args=(name, family, protocol, port))
        for family in (socket.AF_INET, socket.AF_INET6)
        for protocol, port in ((PROTOCOLS["tcp"], 8080), (PROTOCOLS["sctp"], 9999))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(address, port, protocol):
    try:
        client = socket.socket(family_of(address), socket.SOCK_STREAM, PROTOCOLS[protocol])
        client.settimeout(4)
        client.connect((address, int(port)))
        client.sendall(b"who?")
        print(client.recv(100).decode())
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
