"""Whether a store is what docs/format.md says, before any of it is used: limits first, then every rule.

Anybody can make a store and seal it, so a seal says that nothing changed, not that it is right. Nothing here decodes a
sample, imports by name or opens a file. What is no store of this format is a StoreFormatError, in one line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ecgstore.errors import StoreFormatError
from ecgstore.record import Terms
from ecgstore.storage import layout, withdrawn
from ecgstore.storage.limits import FIX, JSON_DEPTH, limits

SHA256 = re.compile(r"[0-9a-f]{64}")
_GONE = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(rf"{layout.SIGNAL}/c/0/(0|[1-9][0-9]{{0,8}})")
_COMMIT = re.compile(rf"{layout.COMMITS}/[0-9]{{6,9}}\.(arrow|json)")
_NEEDED = (layout.ROOT, layout.SIGNAL_JSON, layout.RECORDS, layout.STATEMENTS, layout.REJECTED)
_SINGLE = frozenset({*_NEEDED, layout.LEADS, layout.BEATS})
_FOLD = re.compile(r"|0|[1-9][0-9]{0,4}")
_MAX_HZ = 1e7
#: Of the frames that are written next; what is read says its own, and is held to the size of a chunk.
_MOST_BLOCK_BYTES = 1 << 24
#: More than the index of a shard has.
_INDEX_BYTES = 1 << 16
#: Sums of squares of counts need 30 bits more than the number of samples.
_MAX_SUM = 2**127


def refuse(what: str, where: object, expected: object = None, got: object = None, fix: str | None = None) -> NoReturn:
    """Raise StoreFormatError; what was found is shown in part, however long it is."""
    shown = None if got is None else got if isinstance(got, int) and abs(got) < 2**64 else _short(got)
    raise StoreFormatError(what, where=where, expected=expected, got=shown, fix=fix)


def _short(value: object) -> str:
    text = f"{type(value).__name__} of {len(value)}" if isinstance(value, dict | list) else repr(value)[:80]
    return text if len(text) < 80 else f"{text[:77]}..."


# --- JSON ---------------------------------------------------------------------------------------------------------


def check_length(n_bytes: int, most_bytes: int, where: object) -> None:
    """Refuse a file that is larger than anybody wants to read."""
    if n_bytes > most_bytes:
        refuse("a file of the store is too large", where, f"{most_bytes} bytes at most", n_bytes, FIX)


def parse_json(content: bytes, where: object, most_bytes: int) -> dict[str, Any]:
    """A JSON object of bounded size and depth, without NaN, doubled keys and half characters."""
    bounds = limits()
    n_values = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    check_length(len(content), most_bytes, where)
    if n_values > bounds.json_values:
        refuse("a file of the store says too much", where, f"{bounds.json_values} values at most", n_values, FIX)
    try:
        parsed = json.loads(content.decode(), parse_constant=_no_number, object_pairs_hook=_single_keys)
        _refuse_half_characters(content, parsed)
    except RecursionError:
        refuse("a file of the store is nested too deeply", where, f"{JSON_DEPTH} levels at most")
    except ValueError as error:
        fix = "check the address, and whether its server wants a login: none is given" if "://" in str(where) else None
        begins = content[:200].decode(errors="replace").strip()
        if not begins:
            refuse("a file of the store is not JSON: it is empty", where, fix=fix)
        if begins.startswith("<"):
            refuse("a file of the store is not JSON, but a web page", where, got=begins, fix=fix)
        refuse("a file of the store is not JSON", where, got=str(error), fix=fix)
    if not isinstance(parsed, dict):
        refuse("a file of the store holds no JSON object", where, got=type(parsed).__name__)
    level: list[Any] = [parsed]
    for _ in range(JSON_DEPTH):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return parsed
    refuse("a file of the store is nested too deeply", where, f"{JSON_DEPTH} levels at most")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands there twice")
    return made


def _refuse_half_characters(content: bytes, parsed: Any) -> None:
    if b"\\u" in content:
        json.dumps(parsed, ensure_ascii=False).encode()


# --- what the store consists of -----------------------------------------------------------------------------------


def check_names(objects: Mapping[str, int], where: object) -> None:
    """``objects``: bytes by name, as the manifest states them."""
    bounds = limits()
    for name, n_bytes in objects.items():
        if name not in _SINGLE and not _SHARD.fullmatch(name) and not _COMMIT.fullmatch(name):
            refuse("the manifest names what no store holds", where, got=name)
        # Of shards, what the array says decides.
        if n_bytes > bounds.table_bytes and not _SHARD.fullmatch(name):
            refuse("an object is too large", f"{where}: {name}", f"{bounds.table_bytes} bytes at most", n_bytes, FIX)
    for name in _NEEDED:
        if name not in objects:
            refuse("the manifest lacks an object that each store has", where, name)


def check_version(version: object, where: object) -> int:
    """The format version, if this release can read it."""
    if type(version) is not int or version not in layout.READABLE_VERSIONS:
        readable = ", ".join(map(str, sorted(layout.READABLE_VERSIONS)))
        refuse(
            "the store has a format version that this release can't read",
            where,
            readable,
            "none" if version is None else version,
            "install a newer ecgstore",
        )
    return version


# --- the root -----------------------------------------------------------------------------------------------------

Check = Callable[[Any], bool]


def _is_text(value: Any, most: int = 4096) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_whole(value: Any, least: int = 0, most: int = _MAX_SUM) -> bool:
    return type(value) is int and least <= value <= most


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _MAX_HZ


def is_sha256(value: Any) -> bool:
    """Whether a value of a JSON text is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _is_names(value: Any, most: int) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) <= most
    return is_list and all(_is_text(one, 256) and one for one in value) and len(set(value)) == len(value)


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value))


def _is_plain(value: Any) -> bool:
    """A setting: a number, a text, true, false, null, or a list of them."""
    if isinstance(value, list):
        return len(value) < 1000 and not any(isinstance(one, list) for one in value) and all(map(_is_plain, value))
    return value is None or isinstance(value, bool) or _is_number(value) or _is_text(value)


def _is_filter(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name"), 64) and all(map(_is_plain, value.values()))


def _is_noise(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and _is_text(value.get("kind"), 64)
        and _is_whole(value.get("seed"))
        and all(value.get(name) is None or _is_number(value[name]) for name in ("level", "snr_db"))
    )


def _is_recipe(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"fs_hz", "leads", "extra_leads", "filters"} <= value.keys()
        and (value["fs_hz"] is None or _is_rate(value["fs_hz"]))
        and _is_names(value["leads"], limits().leads)
        and value["extra_leads"] in ("refuse", "drop", "keep")
        and isinstance(value["filters"], list)
        and all(map(_is_filter, value["filters"]))
        and value.get("encoding", "microvolt") in ("microvolt", "adc")
        and _is_noise(value.get("noise"))
    )


def _is_storage(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("codec") in ("blosc", "pcodec")
        and _is_text(value.get("quality"), 64)
        and _is_whole(value.get("measures", 1), 1)
    )


def _is_terms(value: Any) -> bool:
    """One source: the fields of :class:`Terms`, each a text but one that is true or false."""
    return (
        isinstance(value, dict)
        and value.keys() == Terms.__dataclass_fields__.keys()
        and all(isinstance(one, bool) if name == "redistributable" else _is_text(one) for name, one in value.items())
    )


def _is_sources(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 1000 and all(map(_is_terms, value))


def _is_vocabulary(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(name) and isinstance(codes, list) and all(map(_is_text, codes)) for name, codes in value.items()
    )


def _is_vocabularies(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(site) and _is_vocabulary(its) for site, its in value.items())


def _are_hashes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= withdrawn.MOST
        and all(isinstance(one, str) and _GONE.fullmatch(one) for one in value)
    )


def _is_withdrawn(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"patients", "records"} and all(map(_are_hashes, value.values()))


def _is_step(value: Any) -> bool:
    """What was done, and the fingerprints of the stores that it was done to."""
    return (
        isinstance(value, dict)
        and _is_text(value.get("made_by"), 64)
        and isinstance(value.get("parents"), list)
        and 0 < len(value["parents"]) <= 1000
        and all(map(is_sha256, value["parents"]))
        and all(_is_plain(one) for name, one in value.items() if name != "parents")
    )


def _is_lineage(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 1000 and all(map(_is_step, value))


def _is_blocks(value: Any) -> bool:
    sha256 = value.get("sha256") if isinstance(value, dict) else None
    if not isinstance(sha256, dict) or not all(isinstance(its, list) for its in sha256.values()):
        return False
    is_right = all(is_sha256(one) for its in sha256.values() for one in its)
    return is_right and _is_whole(value.get("block_bytes"), 1 << 8, 1 << 24)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(one) for pair in value.items() for one in pair)


#: Attribute → what it must be, in words and as a check. Others are passed over.
_ROOT: dict[str, tuple[str, Check]] = {
    "recipe": ("the keys that docs/format.md lists", _is_recipe),
    "recipe_sha256": ("a SHA-256", is_sha256),
    "plan_sha256": ("a SHA-256", is_sha256),
    "leads": ("names, each once", lambda value: _is_names(value, limits().leads)),
    "fs_hz": ("a rate in Hz, or null", lambda value: value is None or _is_rate(value)),
    "counts_per_mv": ("1000, or null", lambda value: value is None or (_is_whole(value) and value == 1000)),
    "not_recorded": (f"{layout.NOT_RECORDED}", lambda value: type(value) is int and value == layout.NOT_RECORDED),
    "shard_samples": ("a whole number of chunks", lambda value: _is_whole(value, 1, 2**40)),
    "sources": ("a list of terms", _is_sources),
    "vocabulary": ("lists of codes", _is_vocabulary),
    "patients": ("a text", _is_text),
    "statistics": ("sums by fold", lambda value: isinstance(value, dict) and len(value) <= 40_000),
    "software": ("versions", _is_texts),
}
#: Those that not every version has, or not every store.
_ROOT_IF_THERE: dict[str, tuple[str, Check]] = {
    "storage": ("codec and quality", _is_storage),
    "source_settings": ("an object", lambda value: isinstance(value, dict)),
    "noise": ("the settings of the noise", _is_noise),
    "beats": ("an object", lambda value: isinstance(value, dict)),
    "parent": ("a fingerprint", is_sha256),
    "vocabulary_by_site": ("lists of codes by site", _is_vocabularies),
    "patient_key_check": ("a text", _is_text),
    "record_ids": ("path, stem or hashed", lambda value: value in ("path", "stem", "hashed")),
    withdrawn.ATTRIBUTE: ("hashes of patients and of records", _is_withdrawn),
    "lineage": ("the steps that it was made by", _is_lineage),
    "blocks": ("the hashes of the blocks of tables", _is_blocks),
    "folds_drawn": ("a number of folds", lambda value: _is_whole(value, 2, 1000)),
}


def check_root(root: Mapping[str, Any], version: int, plan_sha256: str, where: object) -> dict[str, Any]:
    """The attributes of the root group, each of them as docs/format.md says."""
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or attributes.get("format") != layout.FORMAT:
        refuse("the root of the store is not an ecgstore", where)
    if type(root.get("zarr_format")) is not int or root["zarr_format"] != 3 or root.get("node_type") != "group":
        refuse("the root of the store is no group of Zarr v3", where)
    if check_version(attributes.get("format_version"), where) != version:
        refuse("root and manifest state different format versions", where, version, attributes["format_version"])
    for name, (expected, is_right) in (_ROOT | _ROOT_IF_THERE).items():
        if name not in attributes:
            if name in _ROOT or (name == "storage" and version > 1):
                refuse(f"the root of the store lacks {name}", where, expected)
        elif not is_right(attributes[name]):
            refuse(f"the root of the store has a wrong {name}", where, expected, attributes[name])
    _check_together(attributes, plan_sha256, where)
    return attributes


def check_consolidated(root: Mapping[str, Any], array: Mapping[str, Any], where: object) -> None:
    """What the root says of the array, for readers that don't list the folder; stores of before say nothing."""
    if root.get("consolidated_metadata") not in (None, layout.consolidated(array)):
        refuse("the root of the store describes another array than the one that is there", where)


def _check_together(attributes: Mapping[str, Any], plan_sha256: str, where: object) -> None:
    """Rules about more than one attribute."""
    recipe, leads = attributes["recipe"], attributes["leads"]
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(text.encode()).hexdigest() != attributes["recipe_sha256"]:
        refuse("the recipe is not the one that recipe_sha256 is of", where)
    if attributes["plan_sha256"] != plan_sha256:
        refuse("root and manifest state different plans", where)
    if leads[: len(recipe["leads"])] != recipe["leads"]:
        refuse("the leads of the store don't begin with those of its preparation", where)
    raw = recipe.get("encoding", "microvolt") == "adc"
    if (attributes["counts_per_mv"] is None) is not raw:
        refuse("counts_per_mv and encoding contradict each other", where)
    if not raw and attributes["fs_hz"] is None:
        refuse("only a raw store can have several sampling rates", where)
    if recipe["fs_hz"] not in (None, attributes["fs_hz"]):
        refuse("fs_hz is not the rate of the recipe", where, f"{recipe['fs_hz']:g} Hz", f"{attributes['fs_hz']} Hz")
    chunk, size = layout.CHUNK_SAMPLES, attributes["shard_samples"]
    if size % chunk or size // chunk > max(layout.CHUNKS_PER_SHARD):
        refuse("shard_samples is wrong", where, f"1 to {max(layout.CHUNKS_PER_SHARD)} times {chunk}", size)
    if 2 * size * len(leads) > limits().shard_bytes:
        refuse("the shards are too large", where, f"{limits().shard_bytes} bytes at most", 2 * size * len(leads), FIX)
    for fold, sums in attributes["statistics"].items():
        if not _FOLD.fullmatch(fold) or raw or not _are_sums(sums, len(leads)):
            refuse(f"the statistics of fold {fold[:16]!r} are wrong", where, f"sums of {len(leads)} leads")


def _are_sums(sums: Any, n_leads: int) -> bool:
    if not isinstance(sums, dict) or sums.keys() != {"n", "sum_counts", "sum_squared_counts"}:
        return False
    if not all(isinstance(one, list) and len(one) == n_leads for one in sums.values()):
        return False
    return all(
        _is_whole(n, 0, 2**62) and _is_whole(total, -_MAX_SUM) and _is_whole(squares) and total**2 <= n * squares
        for n, total, squares in zip(sums["n"], sums["sum_counts"], sums["sum_squared_counts"], strict=True)
    )


# --- the array ----------------------------------------------------------------------------------------------------


def check_array(
    metadata: Mapping[str, Any], attributes: Mapping[str, Any], objects: Mapping[str, int], where: object
) -> int:
    """The metadata of ``signal``: what ecgstore writes and nothing else. Returns samples along time.

    Nothing in it is looked up by name: it is compared with what each of the two codecs looks like. ``objects``: bytes
    of all objects of the store, by name.
    """
    n_leads, size = len(attributes["leads"]), attributes["shard_samples"]
    shape = metadata.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not _is_whole(shape[0]) or not _is_whole(shape[1], 0, 2**48):
        refuse("the signal has a wrong shape", where, f"[{n_leads}, samples]", shape)
    if shape[0] != n_leads:
        refuse("the signal has another number of leads than the store", where, n_leads, shape[0])
    codec = attributes.get("storage", {"codec": "blosc"})["codec"]
    expected = _array_metadata(codec, n_leads, shape[1], size)
    found = _without_defaults(metadata)
    for name in sorted(expected.keys() | found.keys()):
        # As JSON: to Python, 0, 0.0 and false are equal.
        if json.dumps(found.get(name), sort_keys=True) != json.dumps(expected.get(name), sort_keys=True):
            said = f"{name} of the signal is not what a store has"
            refuse(said, where, json.dumps(expected.get(name))[:240], json.dumps(found.get(name))[:240])
    n_shards, shards = (
        -(-shape[1] // size),
        [int(name.rpartition("/")[2]) for name in objects if _SHARD.fullmatch(name)],
    )
    if shards and max(shards) >= n_shards:
        refuse("the manifest names a shard behind the end of the signal", where, f"0 to {n_shards - 1}", max(shards))
    # Packing never makes samples twice as large: whoever seals more wants it to be hashed for hours.
    most = 2 * (2 * n_leads * size) + _INDEX_BYTES
    if (largest := max((objects[layout.shard_object(shard)] for shard in shards), default=0)) > most:
        refuse("a shard is too large", where, f"{most} bytes at most", largest)
    most = limits().empty_shards * (1 + len(shards))
    if n_shards - len(shards) > most:
        refuse("too many shards have no object", where, f"{most} at most", n_shards - len(shards), FIX)
    return int(shape[1])


def _array_metadata(codec: str, n_leads: int, total_samples: int, shard_samples: int) -> dict[str, Any]:
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    crc32c: dict[str, Any] = {"name": "crc32c"}
    blosc = {"cname": "zstd", "shuffle": "bitshuffle", "typesize": 2}
    packing: list[dict[str, Any]] = [little, {"name": "blosc", "configuration": blosc}]
    if codec == "pcodec":
        packing = [{"name": "numcodecs.pcodec", "configuration": {}}]
    sharding = {
        "chunk_shape": [n_leads, layout.CHUNK_SAMPLES],
        "codecs": [*packing, crc32c],
        "index_codecs": [little, crc32c],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_leads, total_samples],
        "data_type": "int16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [n_leads, shard_samples]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": int(layout.NOT_RECORDED),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["lead", "time"],
    }


def _without_defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without what may be left out, and without level and blocks of packing, which reading doesn't need."""
    found: dict[str, Any] = json.loads(json.dumps(metadata))
    for name, default in (("attributes", {}), ("storage_transformers", [])):
        if name in found and found[name] == default:
            del found[name]
    try:
        sharding = found["codecs"][0]["configuration"]
        for one in (*sharding["codecs"], *sharding["index_codecs"]):
            its = one.get("configuration", {})
            if one["name"] == "crc32c" and its == {}:
                one.pop("configuration", None)
            level = {"blosc": "clevel", "numcodecs.pcodec": "level"}.get(one["name"])
            if level is not None and _is_whole(its.get(level), 0, 12):
                del its[level]
            if one["name"] == "blosc" and _is_whole(its.get("blocksize"), 0, _MOST_BLOCK_BYTES):
                del its["blocksize"]
    except (KeyError, TypeError, IndexError, AttributeError):
        pass  # of another make altogether: the comparison says so
    return found
