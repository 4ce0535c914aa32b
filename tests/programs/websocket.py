"""An echo over WebSocket (RFC 6455) with nothing but the standard library: `serve PORT` and `talk PORT`."""

import base64
import hashlib
import os
import socket
import socketserver
import struct
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def accept_key(key):
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def send(stream, opcode, payload, masked):
    length = len(payload)
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", 0x80 | opcode, mask_bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, mask_bit | 127, length)
    if masked:
        key = os.urandom(4)
        pad = key * (length // 4 + 1)
        masked_payload = int.from_bytes(payload, "big") ^ int.from_bytes(pad[:length], "big")
        payload = key + masked_payload.to_bytes(length, "big")
    stream.write(head + payload)
    stream.flush()


def exactly(stream, count):
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"{len(data)} bytes of {count}")
    return data


def receive(stream):
    first, second = exactly(stream, 2)
    assert first & 0x80, "these peers do not fragment"
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", exactly(stream, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", exactly(stream, 8))
    key = exactly(stream, 4) if second & 0x80 else None
    payload = exactly(stream, length)
    if key:
        pad = key * (length // 4 + 1)
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(pad[:length], "big")).to_bytes(length, "big")
    return first & 0x0F, payload


def headers(stream):
    stream.readline()
    found = {}
    while line := stream.readline().strip():
        name, value = line.split(b":", 1)
        found[name.strip().lower()] = value.strip()
    return found


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        asked = headers(self.rfile)
        if b"sec-websocket-key" not in asked:
            return
        key = accept_key(asked[b"sec-websocket-key"])
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + key + b"\r\n\r\n"
        )
        while True:
            opcode, payload = receive(self.rfile)
            send(self.wfile, PONG if opcode == PING else opcode, payload, masked=False)
            if opcode == CLOSE:
                return


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def talk(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    stream = connection.makefile("rwb")
    key = base64.b64encode(os.urandom(16))
    stream.write(
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: " + key + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    stream.flush()
    assert headers(stream)[b"sec-websocket-accept"] == accept_key(key)
    for number in range(200):
        # From nothing to 119 kB, so that all three forms of the length occur.
        message = os.urandom(number**2 * 3)
        send(stream, BINARY, message, masked=True)
        assert receive(stream) == (BINARY, message), f"message {number}"
        if number % 10 == 0:
            send(stream, PING, b"are you there?", masked=True)
            assert receive(stream) == (PONG, b"are you there?")
    goodbye = struct.pack("!H", 1000)
    send(stream, CLOSE, goodbye, masked=True)
    assert receive(stream) == (CLOSE, goodbye)
    assert stream.read() == b"", "the server ends the connection"
    print("200 messages came back, and the close was answered")


if __name__ == "__main__":
    verb, number = sys.argv[1], int(sys.argv[2])
    if verb == "serve":
        Server(("127.0.0.1", number), Echo).serve_forever()
    else:
        talk(number)
