"""Files on disk: atomic writes, JSON lines, Parquet shards with a manifest, image stores."""

from mblip.storage.decoding import UnreadableImage, convert_image, decode_image, to_rgb
from mblip.storage.files import (
    Appender,
    atomic_folder,
    atomic_path,
    atomic_write,
    cache_folder,
    no_empty_folders,
    sha256_file,
    write_json,
)
from mblip.storage.folders import has_content
from mblip.storage.images import (
    FolderStore,
    ImageStore,
    ParquetStore,
    TarStore,
    image_scheme,
    open_images,
    other_stores,
)
from mblip.storage.jsonl import (
    JsonlAppender,
    JsonlWriter,
    encode_record,
    parse_line,
    parse_record,
    parse_value,
    read_jsonl,
    read_records,
)
from mblip.storage.locks import exclusive_lock, own_folder
from mblip.storage.manifest import (
    EXCLUSIONS,
    Manifest,
    check_shards,
    language_of,
    read_drops,
    read_manifest,
    write_manifest,
)
from mblip.storage.shards import ShardReader, ShardWriter, count_rows, to_table, write_shard
from mblip.storage.text import check_text, not_utf8, reading_text

__all__ = [
    "EXCLUSIONS",
    "Appender",
    "FolderStore",
    "ImageStore",
    "JsonlAppender",
    "JsonlWriter",
    "Manifest",
    "ParquetStore",
    "ShardReader",
    "ShardWriter",
    "TarStore",
    "UnreadableImage",
    "atomic_folder",
    "atomic_path",
    "atomic_write",
    "cache_folder",
    "check_shards",
    "check_text",
    "convert_image",
    "count_rows",
    "decode_image",
    "encode_record",
    "exclusive_lock",
    "has_content",
    "image_scheme",
    "language_of",
    "no_empty_folders",
    "not_utf8",
    "open_images",
    "other_stores",
    "own_folder",
    "parse_line",
    "parse_record",
    "parse_value",
    "read_drops",
    "read_jsonl",
    "read_manifest",
    "read_records",
    "reading_text",
    "sha256_file",
    "to_rgb",
    "to_table",
    "write_json",
    "write_manifest",
    "write_shard",
]
