"""Records, and splits of them on disk: the names that programs import, from the modules that have them."""

from r1vl_jax.data.fingerprint import fingerprint, hash_files
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from r1vl_jax.data.record import Record, UnusableRecord, decode_images, decode_videos, invalid_reason
from r1vl_jax.data.splits import Split, is_record_directory, open_split, read_settings, split_names, write_splits

__all__ = [
    "IMAGE_PLACEHOLDER",
    "Record",
    "Split",
    "UnusableRecord",
    "VIDEO_PLACEHOLDER",
    "decode_images",
    "decode_videos",
    "fingerprint",
    "hash_files",
    "invalid_reason",
    "is_record_directory",
    "open_split",
    "read_settings",
    "split_names",
    "write_splits",
]
