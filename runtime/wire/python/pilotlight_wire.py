#!/usr/bin/env python3
"""Reads Pilotlight telemetry frames; written from PROTOCOL.md alone, standard library only.

    pilotlight_wire.py check VECTORS                     every frozen frame reads as its message
    pilotlight_wire.py decode HEX [--fleet-key HEX]      one frame as JSON; its tag is checked where a key is given
"""
import argparse
import binascii
import hashlib
import hmac
import json
import sys

VERSION, TAG = 1, 8
SALT = b"pilotlight telemetry v1"


class WireError(ValueError):
    """Bytes that are not what PROTOCOL.md allows."""


class Reader:
    """Values one after the other (section 2)."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, count):
        if len(self.data) - self.at < count:
            raise WireError(f"{count} bytes wanted at {self.at}, {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count:self.at]

    def u8(self):
        return self.bytes(1)[0]

    def i8(self):
        return int.from_bytes(self.bytes(1), "little", signed=True)

    def varint(self, bits):
        value = 0
        for at in range((bits + 6) // 7):
            byte = self.u8()
            value |= (byte & 0x7F) << 7 * at
            if not byte & 0x80:
                if value >> bits:
                    raise WireError(f"number above {bits} bits")
                return value
        raise WireError(f"number above {bits} bits")

    def zigzag(self, bits):
        value = self.varint(bits)
        return value >> 1 ^ -(value & 1)

    def text(self):
        try:
            return self.bytes(self.varint(64)).decode()
        except UnicodeDecodeError as error:
            raise WireError(str(error)) from error

    def choice(self, names):
        value = self.varint(32)
        if value >= len(names):
            raise WireError(f"choice {value} of {names}")
        return names[value]

    def option(self, read):
        flag = self.u8()
        if flag > 1:
            raise WireError(f"option byte {flag}")
        return read() if flag else None


def operating(r):
    return {"gpu": r.u8(), "memory": r.u8(), "cpu": r.u8()}


def hello(r):
    fields = {"schema": r.varint(32)}
    fields.update((name, r.text()) for name in ("name", "board", "firmware", "rail"))
    count = r.varint(64)
    if count > 4:
        raise WireError(f"{count} plans")

    def accuracy():
        measure = r.choice(["Top1", "MeanAveragePrecision", "AreaUnderCurve", "Other"])
        return {"measure": measure, "plan": r.varint(16), "reference": r.varint(16)}

    fields["plans"] = [{"hash": list(r.bytes(8)), "accuracy": r.option(accuracy)} for _ in range(count)]
    return {"Hello": fields}


def report(r):
    groups, end, window, count = r.varint(32), r.varint(64), r.zigzag(64), r.varint(32)
    window += 1000
    if not 0 <= window <= 1 << 31:
        raise WireError(f"window {window} ms")
    fields = {"end": end * 1000, "window": window * 1000, "count": count, "latency": None, "energy": None,
              "operating": None, "temperature": None,
              "trouble": {"misses": 0, "throttled": 0, "over_current": 0},
              "backlog": {"waiting": 0, "dropped": 0, "dropped_earlier": 0, "unsampled": 0}}
    if groups & 1:
        at, fields["latency"] = 0, {}
        for name in ("p50", "p90", "p99", "max"):
            at += r.varint(16)
            if at > 895:
                raise WireError(f"latency bucket {at}")
            fields["latency"][name] = at
    if groups >> 1 & 3:
        fields["energy"] = {"source": [None, "Measured", "Modelled", "Mixed"][groups >> 1 & 3],
                            "gross": r.varint(64), "net": r.varint(64),
                            "gross_spread": r.u8(), "net_spread": r.u8()}
    if groups & 8:
        fields["operating"] = operating(r)
    if groups & 16:
        fields["temperature"] = {"gpu": r.i8(), "module": r.i8()}
    if groups & 32:
        fields["trouble"] = {name: r.varint(32) for name in fields["trouble"]}
    if groups & 64:
        fields["backlog"] = {name: r.varint(32) for name in fields["backlog"]}
    return {"Report": fields}


def event(r):
    at, code = r.varint(64), r.u8()
    if code == 0:
        what = {"Governor": {"from": operating(r), "to": operating(r)}}
    elif code == 1:
        what = {"Alert": {"alert": r.u8(), "value": r.zigzag(64), "limit": r.zigzag(64)}}
    elif code == 2:
        flag = r.u8()
        if flag > 1:
            raise WireError(f"boolean {flag}")
        what = {"Park": {"parked": bool(flag)}}
    elif code == 3:
        what = {"Fault": {"code": r.varint(16), "detail": r.varint(32)}}
    elif code == 4:
        what = {"Clock": {"offset": r.zigzag(64), "uncertainty": r.varint(64)}}
    else:
        what = {"Unknown": {"code": code}}
    return {"Event": {"at": at, "what": what}}


def log(r):
    at, level, text = r.varint(64), r.u8(), r.text()
    return {"Log": {"at": at, "level": min(level, 4), "text": text}}


def closing(r):
    return {"Closing": {"at": r.varint(64), "dropped": r.varint(32), "dropped_earlier": r.varint(32),
                        "unsampled": r.varint(32)}}


def ack(r):
    return {"Ack": {"up_to": r.varint(32), "beyond": r.varint(64), "echo": r.varint(32),
                    "wall": r.varint(64), "held": r.varint(64)}}


def command(r):
    code = r.u8()
    if code == 0:
        return {"Command": {"Period": r.varint(64)}}
    if code == 1:
        return {"Command": {"Budget": r.varint(64)}}
    if code == 2:
        return {"Command": {"Threshold": {"alert": r.u8(), "limit": r.zigzag(64)}}}
    return {"Command": {"Unknown": {"code": code}}}


MESSAGES = {1: hello, 2: report, 3: event, 4: log, 5: closing, 16: ack, 17: command}


def derive(fleet_key, direction, key_id, device):
    """A device's key: HKDF-SHA-256, RFC 5869 (section 5)."""
    secret = hmac.new(SALT, fleet_key, hashlib.sha256).digest()
    info = direction[:1].encode() + bytes([key_id]) + device.to_bytes(4, "little")
    return hmac.new(secret, info + b"\x01", hashlib.sha256).digest()


def parse(data, key_for=None):
    """One frame: (header, message, rest). `key_for(key_id, device)` gives the key, and a bad tag is an error."""
    r = Reader(data)
    first = r.u8()
    if first >> 4 != VERSION:
        raise WireError(f"version {first >> 4}")
    header = {"device": r.varint(32), "boot": r.varint(32), "sequence": r.varint(32)}
    flags = r.u8()
    if flags & 0x80:
        raise WireError("reserved bit of the kind byte")
    header["wants_ack"] = bool(flags & 0x20)
    header["held"] = r.varint(32) if flags & 0x40 else None
    body = r.bytes(r.u8())
    signed, tag = data[:r.at], r.bytes(TAG)
    if key_for:
        key = key_for(first & 0x0F, header["device"])
        if not hmac.compare_digest(hmac.new(key, signed, hashlib.sha256).digest()[:TAG], tag):
            raise WireError("tag does not match")
    kind = flags & 0x1F
    read = MESSAGES.get(kind)
    message = read(Reader(body)) if read else {"Unknown": {"kind": kind, "body": list(body)}}
    return header, message, data[r.at:]


def deframe(line):
    """Frames of a serial line's bytes (section 4); what is not a frame raises."""
    for part in line.split(b"\0"):
        if not part:
            continue
        plain, at = bytearray(), 0
        while at < len(part):
            run = part[at]
            if at + run > len(part):
                raise WireError("byte stuffing")
            plain += part[at + 1:at + run]
            at += run
            if run < 0xFF and at < len(part):
                plain.append(0)
        frame, checksum = bytes(plain[:-2]), int.from_bytes(plain[-2:], "little")
        if len(plain) < 2 or checksum != crc16(frame):
            raise WireError("checksum")
        yield frame


def crc16(data):
    """CRC-16/IBM-SDLC: the reflected CCITT polynomial, all ones in, complemented out."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x8408 if value & 1 else 0)
    return value ^ 0xFFFF


def check(path):
    fleet, count = bytes(range(32)), 0
    with open(path, encoding="utf-8") as file:
        blocks = file.read().split("\n\n")[1:]
    for block in blocks:
        entry = dict(line.split(": ", 1) for line in block.strip().splitlines())
        frame = binascii.unhexlify(entry["frame"])
        direction = entry["direction"]
        header, message, rest = parse(frame, lambda key, device: derive(fleet, direction, key, device))
        assert header == json.loads(entry["header"]), (entry["name"], header)
        assert message == json.loads(entry["message"]), (entry["name"], message)
        assert rest == b"" and list(deframe(binascii.unhexlify(entry["serial"]))) == [frame], entry["name"]
        for at in range(len(frame)):
            damaged = frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1:]
            try:
                parse(damaged, lambda key, device: derive(fleet, direction, key, device))
            except WireError:
                continue
            raise AssertionError(f"{entry['name']}: byte {at} changed and accepted")
        count += 1
    print(f"{count} frames read")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("vectors")
    one = commands.add_parser("decode")
    one.add_argument("hex")
    one.add_argument("--fleet-key", help="64 hex digits")
    one.add_argument("--down", action="store_true", help="a frame from the collector")
    options = parser.parse_args()
    if options.command == "check":
        check(options.vectors)
        return
    key_for = None
    if options.fleet_key:
        fleet = binascii.unhexlify(options.fleet_key)
        direction = "Down" if options.down else "Up"
        key_for = lambda key, device: derive(fleet, direction, key, device)  # noqa: E731
    try:
        header, message, rest = parse(binascii.unhexlify(options.hex), key_for)
    except WireError as error:
        sys.exit(f"not a frame: {error}")
    print(json.dumps({"header": header, "verified": bool(key_for), "message": message, "after": rest.hex()}))


if __name__ == "__main__":
    main()
