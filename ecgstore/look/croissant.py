"""A store as Croissant (JSON-LD by MLCommons, version 1.0): what search engines and loaders of data sets read.

Tables are files with their SHA-256 and have record sets; the shards, of which there may be thousands, are one set of
files: their hashes stand in the store's own manifest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ecgstore.errors import visible
from ecgstore.storage import layout
from ecgstore.storage.beside import CardSettings
from ecgstore.storage.store import Store

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
#: The context that version 1.0 states, whole.
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
#: Tables that have a record set, and what their rows are. Those of ``leads.parquet`` are lists, which 1.0 doesn't know.
_TABLES = {
    layout.RECORDS: "one row per record",
    layout.STATEMENTS: "one row per statement on a record",
    layout.BEATS: "one row per beat or other annotation",
    layout.REJECTED: "one row per record that was left out",
}
_MEDIA = {".json": "application/json", ".parquet": "application/x-parquet"}


def croissant(store: Store, said: CardSettings | None = None, base: str = "") -> str:
    """The JSON-LD of ``store``; ``said`` is what people know of it.

    ``base``: what stands before the names of its objects, seen from where the text will stand, such as ``ptbxl.ecg/``.
    """
    name = said.title if said else Path(store.path.rstrip("/")).name
    rate = f" at {store.attributes['fs_hz']:g} Hz" if store.attributes["fs_hz"] else ""
    what = f"{store.n_records} electrocardiograms of {len(store.leads)} leads{rate}, fingerprint {store.fingerprint}."
    content: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": _one_line(name),
        "description": f"{said.description}\n\n{what}" if said and said.description else what,
        "conformsTo": CONFORMS_TO,
        "identifier": f"sha256:{store.fingerprint}",
        "version": said.version if said and said.version else "1.0.0",
        **_told(store, said),
        "distribution": [*(_file(name, store, base) for name in _files(store)), _shards(base)],
        "recordSet": [_record_set(store, table, what) for table, what in _TABLES.items() if table in store.objects],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _told(store: Store, said: CardSettings | None) -> dict[str, Any]:
    """Licence, citation and people; where nobody says any, those of the sources."""
    sources = store.terms
    licence = (said.licence_url or said.licence) if said else None
    citation = said.citation if said else None
    found: dict[str, Any] = {
        "license": licence or ", ".join(dict.fromkeys(one.licence for one in sources if one.licence)),
        "citeAs": citation or " ".join(dict.fromkeys(one.citation for one in sources if one.citation)),
        "datePublished": said.published if said else None,
        "creator": [{"@type": "sc:Organization", "name": one} for one in said.creators] if said else None,
        "keywords": ["ECG", *(said.keywords if said else ())],
        "isBasedOn": [f"https://doi.org/{one.doi}" for one in sources if one.doi],
    }
    return {name: value for name, value in found.items() if value}


def _files(store: Store) -> list[str]:
    return [name for name in sorted(store.objects) if "/" not in name or name == layout.SIGNAL_JSON]


def _file(name: str, store: Store, base: str) -> dict[str, Any]:
    stated = store.objects[name]
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": f"{base}{name}",
        "contentSize": f"{stated.size} B",
        "encodingFormat": _MEDIA[Path(name).suffix],
        "sha256": stated.sha256,
    }


def _shards(base: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "The samples: shards of one Zarr v3 array (lead, time), whose metadata is signal/zarr.json.",
        "encodingFormat": "application/octet-stream",
        "includes": f"{base}{layout.SIGNAL}/c/0/*",
    }


def _record_set(store: Store, table: str, what: str) -> dict[str, Any]:
    stem = table.removesuffix(".parquet")
    columns = {layout.RECORDS: store.records, layout.STATEMENTS: store.statements}.get(table)
    if columns is None:
        columns = store.beats if table == layout.BEATS else store.rejected
    key = {"key": {"@id": f"{stem}/record_id"}} if table == layout.RECORDS else {}
    return {
        "@type": "cr:RecordSet",
        "@id": stem,
        "name": stem,
        "description": what,
        **key,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{stem}/{field.name}",
                "name": field.name,
                "dataType": _type(str(field.type)),
                "source": {"fileObject": {"@id": table}, "extract": {"column": field.name}},
            }
            for field in columns.schema
        ],
    }


def _type(kind: str) -> str:
    if kind == "string":
        return "sc:Text"
    return "sc:Integer" if "int" in kind else "sc:Float"
