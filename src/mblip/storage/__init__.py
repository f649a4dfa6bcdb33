"""Everything on disk: atomic writes, JSON lines, Parquet shards with a manifest, image stores."""

from mblip.storage.files import (
    atomic_folder,
    atomic_path,
    atomic_write,
    hash_directory,
    no_empty_folders,
    sha256_file,
    write_json,
)
from mblip.storage.images import (
    FolderStore,
    ImageStore,
    TarStore,
    UnreadableImage,
    decode_image,
    open_images,
    to_rgb,
)
from mblip.storage.jsonl import JsonlAppender, JsonlWriter, parse_record, read_jsonl, read_records
from mblip.storage.locks import alone
from mblip.storage.manifest import (
    EXCLUSIONS,
    Manifest,
    check_shards,
    language_of,
    read_drops,
    read_manifest,
    write_manifest,
)
from mblip.storage.shards import ShardReader, ShardWriter, to_table, write_shard
from mblip.storage.text import check_text, not_utf8, reading_text

__all__ = [
    "EXCLUSIONS",
    "FolderStore",
    "ImageStore",
    "JsonlAppender",
    "JsonlWriter",
    "Manifest",
    "ShardReader",
    "ShardWriter",
    "TarStore",
    "UnreadableImage",
    "alone",
    "atomic_folder",
    "atomic_path",
    "atomic_write",
    "check_shards",
    "check_text",
    "decode_image",
    "hash_directory",
    "language_of",
    "no_empty_folders",
    "not_utf8",
    "open_images",
    "parse_record",
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
