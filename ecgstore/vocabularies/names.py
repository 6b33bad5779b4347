"""Names of persons in a text, as far as they are common or written as names are."""

from __future__ import annotations

import functools
import re
import unicodedata
from itertools import pairwise

from ecgstore.vocabularies import packaged

#: A name of fewer letters is an abbreviation as well, unless it stands beside another one.
_SHORT = 4
_WORD = re.compile(r"[^\W\d_]+")
#: Words within one, as in MariaLopez.
_HUMP = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
#: Family name ^ given name is how DICOM and HL7 write a person; a title stands before a name.
_AS_NAMES_ARE = re.compile(
    r"[^\W\d_]{2,}\^[^\W\d_]{2,}|(?<![^\W_])(?:Mr|Mrs|Ms|Dr|Prof|Herr|Frau|Mme|Mlle)(?:\.[ _]?|[ _])[A-ZÀ-ÖØ-Þ][^\W\d_]"
)
#: Two words with a capital each, as in Doe_Jane or Doe, Jane.
_PAIR = re.compile(r"(?<![^\W_])([A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+)(?:, ?|[ _^.-])([A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+)(?![^\W_])")
#: What folders of recordings are called by, and no person.
_CALLED = """
archive arrhythmia baseline cardiac cardiology case center centre chagas clinic cohort control data database day
diagnostic discharge east ecg ekg emergency event exam export female field first folder follow group healthy heart
holter home hospital icu import lead leads left long main male medical monitor month night noise normal north old
original outpatient part patient patients person pilot raw record recording recordings records rest resting rhythm
right room run sample samples second selected series session set short signal signals sinus site south stage station
stress study subject subjects supine telemetry term test third training trial unit university validation visit ward
week west year
"""
_OF_FOLDERS = frozenset(_CALLED.split())


def holds_name(text: str) -> bool:
    """Whether a common name of a person stands in ``text`` as a word, or what is written as names are."""
    if _AS_NAMES_ARE.search(text):
        return True
    words = [_is_name(part) for word in _WORD.findall(text) for part in _parts(word)]
    return any(len_ >= _SHORT for len_ in words) or any(one and other for one, other in pairwise(words))


def holds_pair(text: str) -> bool:
    """Whether two words stand side by side as given and family names do, such as Doe_Jane; places do so, too."""
    return any(
        one.casefold() not in _OF_FOLDERS and other.casefold() not in _OF_FOLDERS for one, other in _PAIR.findall(text)
    )


def _parts(word: str) -> list[str]:
    """A word as it is; or the words that it was put together from."""
    parts = _HUMP.split(word)
    if len(parts) > 1:
        return parts
    glued = ((word[:i], word[i:]) for i in range(_SHORT, len(word) - _SHORT + 1))
    return next(([one, other] for one, other in glued if _is_name(one) and _is_name(other)), [word])


def _is_name(word: str) -> int:
    """How many letters a name has; 0 for what is none."""
    return len(word) if not _spellings(word).isdisjoint(_names()) else 0


def _spellings(word: str) -> set[str]:
    """Without accents; and with an e in the place of two dots above a vowel."""
    word = unicodedata.normalize("NFKD", word.casefold()).replace("ß", "ss").replace("ø", "o").replace("ł", "l")
    return {
        "".join(character for character in spelt if not unicodedata.combining(character))
        for spelt in (word, word.replace("\N{COMBINING DIAERESIS}", "e"))
    }


@functools.lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(row["name"] for row in packaged.rows("names"))
