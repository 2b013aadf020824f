"""TensorFlow's `tf.train.Example` message, without TensorFlow."""

from __future__ import annotations

from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    text_format,
)

# No package that the job depends on ships the message. These are the fields of
# tensorflow/core/example/feature.proto and example.proto, without the lists of floats,
# which protobuf skips as any field that it does not know.
_DESCRIPTOR = """
name: "example.proto" package: "tensorflow" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: "BytesList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: "Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: "Feature" }
  }
  field {
    name: "feature" number: 1 label: LABEL_REPEATED type_name: "Features.FeatureEntry"
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type_name: "Features" }
}
"""


def parse(record: bytes) -> dict[str, bytes | int]:
    """Returns the first value of every feature that holds bytes or integers.

    Raises:
        ValueError: If the record is not a `tf.train.Example`, or has no features.
    """
    try:
        features = _Example.FromString(record).features.feature
    except message.DecodeError as error:
        raise ValueError(f"the record is not a tf.train.Example: {error}") from error
    # Protobuf skips fields that it does not know, so other messages may parse.
    if not features:
        raise ValueError("the record is not a tf.train.Example: it has no features")
    lists = {
        name: features[name].bytes_list.value or features[name].int64_list.value
        for name in features
    }
    return {name: values[0] for name, values in lists.items() if values}


def build(features: dict[str, bytes | int]) -> bytes:
    """Returns the message with one value in every feature."""
    example = _Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        kind = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
        kind.value.append(value)
    # Protobuf leaves the order of a map open otherwise, and with it the bytes.
    return example.SerializeToString(deterministic=True)


def _example_class() -> Any:
    file = text_format.Parse(_DESCRIPTOR, descriptor_pb2.FileDescriptorProto())
    # Not the default pool, where TensorFlow registers the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName("tensorflow.Example")
    return message_factory.GetMessageClass(descriptor)


_Example = _example_class()
