"""What is predicted on PTB-XL: six sets of labels, made from its SCP-ECG statements.

The table below holds facts of ``scp_statements.csv`` of PTB-XL 1.0.3 (Wagner et al., "PTB-XL, a large
publicly available electrocardiography dataset", Scientific Data 7:154, 2020; PhysioNet; licence CC BY 4.0),
in another order and without its references to other vocabularies.

Every statement counts, whatever its likelihood: PTB-XL writes 0 where it does not state one. Classes are
pinned by the table, never taken from what happens to be in a store: two stores answer the same question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ecgstore import Store
from ecgtrain.tasks import Targets, from_statements, unknown_label_set

DESCRIPTION = "PTB-XL's SCP-ECG statements: diagnoses at three depths, form, rhythm, or all 71"

SYSTEM = "scp_ecg"

LABEL_SETS: dict[str, str] = {
    "all": "all 71 statements",
    "diagnostic": "44 diagnostic statements",
    "subdiagnostic": "23 diagnostic subclasses",
    "superdiagnostic": "5 diagnostic superclasses",
    "form": "19 statements on form",
    "rhythm": "12 statements on rhythm",
}

# code | d diagnostic, f form, r rhythm | superclass | subclass | in words
_TABLE = """
NORM    | d  | NORM | NORM      | normal ECG
IMI     | d  | MI   | IMI       | inferior myocardial infarction
ILMI    | d  | MI   | IMI       | inferolateral myocardial infarction
IPLMI   | d  | MI   | IMI       | inferoposterolateral myocardial infarction
IPMI    | d  | MI   | IMI       | inferoposterior myocardial infarction
INJIN   | d  | MI   | IMI       | subendocardial injury in inferior leads
INJIL   | d  | MI   | IMI       | subendocardial injury in inferolateral leads
ASMI    | d  | MI   | AMI       | anteroseptal myocardial infarction
AMI     | d  | MI   | AMI       | anterior myocardial infarction
ALMI    | d  | MI   | AMI       | anterolateral myocardial infarction
INJAS   | d  | MI   | AMI       | subendocardial injury in anteroseptal leads
INJAL   | d  | MI   | AMI       | subendocardial injury in anterolateral leads
INJLA   | d  | MI   | AMI       | subendocardial injury in lateral leads
LMI     | d  | MI   | LMI       | lateral myocardial infarction
PMI     | d  | MI   | PMI       | posterior myocardial infarction
NDT     | df | STTC | STTC      | non-diagnostic T abnormalities
DIG     | df | STTC | STTC      | digitalis-effect
LNGQT   | df | STTC | STTC      | long QT-interval
ANEUR   | d  | STTC | STTC      | ST-T changes compatible with ventricular aneurysm
EL      | d  | STTC | STTC      | electrolytic disturbance or drug (former EDIS)
NST_    | df | STTC | NST_      | non-specific ST changes
ISC_    | d  | STTC | ISC_      | non-specific ischemic
ISCAL   | d  | STTC | ISCA      | ischemic in anterolateral leads
ISCAS   | d  | STTC | ISCA      | ischemic in anteroseptal leads
ISCLA   | d  | STTC | ISCA      | ischemic in lateral leads
ISCAN   | d  | STTC | ISCA      | ischemic in anterior leads
ISCIN   | d  | STTC | ISCI      | ischemic in inferior leads
ISCIL   | d  | STTC | ISCI      | ischemic in inferolateral leads
LVH     | d  | HYP  | LVH       | left ventricular hypertrophy
RVH     | d  | HYP  | RVH       | right ventricular hypertrophy
SEHYP   | d  | HYP  | SEHYP     | septal hypertrophy
LAO/LAE | d  | HYP  | LAO/LAE   | left atrial overload/enlargement
RAO/RAE | d  | HYP  | RAO/RAE   | right atrial overload/enlargement
LAFB    | d  | CD   | LAFB/LPFB | left anterior fascicular block
LPFB    | d  | CD   | LAFB/LPFB | left posterior fascicular block
IRBBB   | d  | CD   | IRBBB     | incomplete right bundle branch block
CRBBB   | d  | CD   | CRBBB     | complete right bundle branch block
CLBBB   | d  | CD   | CLBBB     | complete left bundle branch block
ILBBB   | d  | CD   | ILBBB     | incomplete left bundle branch block
1AVB    | d  | CD   | _AVB      | first degree AV block
3AVB    | d  | CD   | _AVB      | third degree AV block
2AVB    | d  | CD   | _AVB      | second degree AV block
IVCD    | d  | CD   | IVCD      | non-specific intraventricular conduction disturbance (block)
WPW     | d  | CD   | WPW       | Wolf-Parkinson-White syndrome
ABQRS   | f  |      |           | abnormal QRS
PVC     | f  |      |           | ventricular premature complex
STD_    | f  |      |           | non-specific ST depression
VCLVH   | f  |      |           | voltage criteria (QRS) for left ventricular hypertrophy
QWAVE   | f  |      |           | Q waves present
LOWT    | f  |      |           | low amplitude T-waves
NT_     | f  |      |           | non-specific T-wave changes
PAC     | f  |      |           | atrial premature complex
LPR     | f  |      |           | prolonged PR interval
INVT    | f  |      |           | inverted T-waves
LVOLT   | f  |      |           | low QRS voltages in the frontal and horizontal leads
HVOLT   | f  |      |           | high QRS voltage
TAB_    | f  |      |           | T-wave abnormality
STE_    | f  |      |           | non-specific ST elevation
PRC(S)  | f  |      |           | premature complex(es)
SR      | r  |      |           | sinus rhythm
AFIB    | r  |      |           | atrial fibrillation
STACH   | r  |      |           | sinus tachycardia
SARRH   | r  |      |           | sinus arrhythmia
SBRAD   | r  |      |           | sinus bradycardia
PACE    | r  |      |           | normal functioning artificial pacemaker
SVARR   | r  |      |           | supraventricular arrhythmia
BIGU    | r  |      |           | bigeminal pattern (unknown origin, SV or Ventricular)
AFLT    | r  |      |           | atrial flutter
SVTAC   | r  |      |           | supraventricular tachycardia
PSVT    | r  |      |           | paroxysmal supraventricular tachycardia
TRIGU   | r  |      |           | trigeminal pattern (unknown origin, SV or Ventricular)
"""

_SUPERCLASSES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T change",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}

# Subclasses whose name is not the code of one statement that says it all.
_SUBCLASSES = {
    "IMI": "inferior myocardial infarction (all kinds)",
    "AMI": "anterior myocardial infarction (all kinds)",
    "STTC": "other ST/T changes",
    "ISCA": "ischemic in anterior leads (all kinds)",
    "ISCI": "ischemic in inferior leads (all kinds)",
    "LAFB/LPFB": "left anterior or posterior fascicular block",
    "_AVB": "AV block",
}


class ScpCode(NamedTuple):
    """One SCP-ECG statement as PTB-XL uses it; ``kinds`` holds d, f, r for diagnostic, form, rhythm."""

    kinds: str
    superclass: str
    subclass: str
    title: str


def _read_table() -> dict[str, ScpCode]:
    lines = (line.split("|") for line in _TABLE.strip().splitlines())
    return {code.strip(): ScpCode(*(cell.strip() for cell in cells)) for code, *cells in lines}


#: All 71 statements, in the order in which classes are listed.
CODES: dict[str, ScpCode] = _read_table()


def members(label_set: str) -> dict[str, tuple[str, ...]]:
    """The pinned classes of ``label_set``, each with the codes that make a record one of it.

    Raises ConfigError naming the nearest label set.
    """
    kind = {"diagnostic": "d", "form": "f", "rhythm": "r"}
    match label_set:
        case "all":
            return {code: (code,) for code in CODES}
        case "diagnostic" | "form" | "rhythm":
            return {code: (code,) for code, about in CODES.items() if kind[label_set] in about.kinds}
        case "subdiagnostic":
            return _grouped({code: about.subclass for code, about in CODES.items() if about.subclass})
        case "superdiagnostic":
            return _grouped({code: about.superclass for code, about in CODES.items() if about.superclass})
    raise unknown_label_set(label_set, LABEL_SETS, "ptbxl")


def _grouped(class_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(code for code, one in class_of.items() if one == name) for name in class_of.values()}


def title(label_set: str, name: str) -> str:
    """The class ``name`` of ``label_set`` in words."""
    if label_set == "superdiagnostic":
        return _SUPERCLASSES[name]
    if label_set == "subdiagnostic" and name in _SUBCLASSES:
        return _SUBCLASSES[name]
    return CODES[name].title


def targets(store: Store, label_set: str) -> Targets:
    """Targets of ``label_set`` for every record of ``store``.

    See :func:`from_statements`. Raises ConfigError for an unknown label set, ProtocolError where the store's vocabulary
    holds none of its codes.
    """
    codes_of = members(label_set)
    titles = {name: title(label_set, name) for name in codes_of}
    return from_statements(store, f"ptbxl/{label_set}", SYSTEM, codes_of, titles)
