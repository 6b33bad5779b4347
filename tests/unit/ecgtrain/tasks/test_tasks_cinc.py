"""The classes of the challenges: merged, from SNOMED CT and from PTB-XL's statements."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgstore import ConfigError, open_store
from ecgtrain import tasks
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import cinc

NSR, AF, RBBB, CRBBB, SVPB = "426783006", "164889003", "59118001", "713427006", "63593006"


class Shelf:
    """What the task asks of a store."""

    path = "shelf.ecg"

    def __init__(self, stated, system="snomed_ct", by_site=None):
        self.stated, self.system, self.n_records = stated, system, len(stated)
        self.codes = frozenset().union(*stated)
        self.attributes = {"vocabulary": {system: sorted(self.codes)}}
        if by_site:
            self.attributes["vocabulary_by_site"] = {site: {system: codes} for site, codes in by_site.items()}

    def vocabulary(self, system):
        return self.codes if system == self.system else frozenset()

    def statement_matrix(self, codes, system):
        matrix = [[code in stated for code in codes] for stated in self.stated]
        return np.array(matrix, dtype=bool).reshape(len(self.stated), len(codes))

    @property
    def statements(self):
        rows = [row for row, stated in enumerate(self.stated) for _ in stated]
        return pa.table({"row": rows, "system": [self.system] * len(rows)})


@pytest.mark.parametrize(("year", "n_codes", "n_classes"), [(2020, 27, 24), (2021, 30, 26)])
def test_codes_that_are_scored_alike_are_one_class(year, n_codes, n_classes):
    members = cinc.members(year)
    assert len(members) == n_classes
    assert sum(map(len, members.values())) == n_codes
    assert members["CRBBB"] == (CRBBB, RBBB)
    assert members["PAC"] == ("284470004", SVPB)
    assert ("LBBB" in members, len(members["LBBB"])) == (True, 2 if year == 2021 else 1)


def test_a_record_is_of_a_class_that_any_of_its_codes_states_and_no_to_the_others():
    shelf = Shelf([{RBBB}, {CRBBB, AF}, {NSR}, {"1234567"}, set()])
    found = tasks.load("cinc/2020").targets(shelf)
    assert set(found.classes) == {"CRBBB", "AF", "NSR"}
    np.testing.assert_array_equal(found.y_nc[:, found.classes.index("CRBBB")], [1, 1, 0, 0, 0])
    # A record with a code that isn't scored was judged; one without any was not.
    assert found.rows_with_label.tolist() == [0, 1, 2, 3]
    assert len(found.dropped) == 21
    assert found.challenge is not None
    assert (len(found.challenge.classes), found.challenge.normal) == (24, "NSR")
    assert found.challenge.reward_cc.shape == (24, 24)
    assert found.challenge.y_nc.sum() == found.y_nc.sum()


def test_sites_that_never_state_a_class_are_named():
    shelf = Shelf([{NSR, AF}, {NSR}], by_site={"a": [NSR, AF], "b": [NSR]})
    assert tasks.load("cinc/2020").targets(shelf).caveats == (
        'classes that a site never states count as a "no" there, as the challenge counts them (a 22, b 23)',
    )
    assert tasks.load("cinc/2020").targets(Shelf([{NSR, AF}])).caveats == ()


def test_statements_of_ptb_xl_are_found_by_the_map(mini_store):
    store = open_store(mini_store)
    found = tasks.load("cinc/2021").targets(store)
    assert "LAD" in found.dropped, "axis deviations come from no statement"
    column = found.y_nc[:, found.classes.index("NSR")]
    np.testing.assert_array_equal(column, store.statement_matrix(["SR", "NORM"], "scp_ecg").any(axis=1))
    af = found.y_nc[:, found.classes.index("AF")]
    np.testing.assert_array_equal(af, store.statement_matrix(["AFIB"], "scp_ecg")[:, 0])


def test_other_years_and_other_systems_are_refused():
    with pytest.raises(ConfigError, match="did you mean cinc/202"):
        tasks.load("cinc/2022")
    with pytest.raises(ProtocolError, match="got codes of diagnosis"):
        tasks.load("cinc/2020").targets(Shelf([{"x"}], system="diagnosis"))
