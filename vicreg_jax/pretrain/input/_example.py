"""The part of TensorFlow's Example message that image records are made of.

``Example { features: 1 { feature: map<string, Feature> 1 } }`` where a Feature is a
list of bytes (1), floats (2) or integers (3). Read here field by field: a few lines
instead of TensorFlow.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

BYTES, INTEGERS = 1, 3


def parse(record: bytes) -> dict[str, bytes | int]:
    """Returns the first value of every feature that holds bytes or integers.

    Raises:
        ValueError: it is no such message.
    """
    try:
        return dict(_features(record))
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError("the record is no tf.train.Example") from error


def build(features: dict[str, bytes | int]) -> bytes:
    """Returns the message with one value in every feature."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _field(BYTES, _field(1, value))
        else:
            feature = _field(INTEGERS, _field(1, _varint(value)))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _features(record) -> Iterator[tuple[str, bytes | int]]:
    for _, features in _fields(record):
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            name = _message(parts[1]).decode()
            for kind, values in _fields(parts[2]):
                if kind in (BYTES, INTEGERS):
                    yield name, _first(kind, values)


def _first(kind, values) -> bytes | int:
    for _, value in _fields(values):
        if kind == BYTES:
            return value
        if isinstance(value, bytes):  # several numbers, packed into one field
            value, _ = _read_varint(value, 0)
        return value - 2**64 if value >= 2**63 else value
    raise ValueError("the record has an empty feature")


def _fields(value: bytes | int) -> Iterator[tuple[int, bytes | int]]:
    """Yields the number and the value of each field of a message."""
    message = _message(value)
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _read_varint(message, at)
        else:
            length, at = _read_varint(message, at) if wire == 2 else (None, at)
            length = {1: 8, 2: length, 5: 4}.get(wire)
            if length is None or at + length > len(message):
                raise ValueError("the record is no tf.train.Example")
            value, at = message[at : at + length], at + length
        yield tag >> 3, value


def _message(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("the record is no tf.train.Example")
    return value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns a number, seven bits a byte, lowest first, and where it ended."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    value %= 2**64  # negative numbers travel as ten bytes
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value
