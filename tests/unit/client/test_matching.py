"""The datasets of a run are found by content; what is not found is named as train, test or validation."""

from __future__ import annotations

import pandas as pd
import pytest

from seclea.client.matching import Split, named_datasets, used_datasets
from seclea.errors import PortalUnavailable, UnknownDatasetError, UsageError
from tests.unit.client.lineage_desk import Desk

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0], "y": [0, 1, 0]})


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def test_a_table_is_matched_by_what_is_in_it_whatever_holds_it(desk):
    made = desk.table(FRAME, "table", {"outputs": ["y"]})
    for same in (FRAME.copy(), made, Split(FRAME[["a"]], FRAME["y"])):
        (used,) = used_datasets(desk.known, [("train", same)])
        assert (used.id, used.role, used.here) == (made.uuid, "train", True)
        assert used.metadata["outputs_info"] == {"y": {"type": "classification", "classes": [0, 1]}}


def test_of_two_datasets_with_one_content_the_one_with_the_same_roles_is_taken(desk):
    split = desk.split(FRAME[["a"]], FRAME["y"], "split")
    table = desk.table(FRAME, "table")  # later, so it would be taken where roles did not count
    (used,) = used_datasets(desk.known, [("", Split(FRAME[["a"]], FRAME["y"]))])
    assert used.id == split.uuid
    assert used_datasets(desk.known, [("", FRAME)])[0].id == table.uuid


@pytest.mark.parametrize("role", ["train", "test", "validation"])
def test_what_is_not_known_is_named_with_the_nearest_that_is(desk, role):
    desk.table(FRAME, "table")
    with pytest.raises(UnknownDatasetError) as caught:
        used_datasets(desk.known, [("train", FRAME), (role, FRAME.assign(a=9.0))])
    assert f"The {role} dataset (3 rows, 2 columns) is no dataset of the project." in str(caught.value)
    assert "Nearest is 'table', but this one has other values in 'a'" in str(caught.value)
    with pytest.raises(UnknownDatasetError, match=f"The {role} dataset"):
        used_datasets(desk.known, [(role, Split(FRAME[["y"]], FRAME["a"]))])


def test_with_the_portal_away_a_table_is_named_by_its_identity(tmp_path):
    def away():
        raise PortalUnavailable("away")

    desk = Desk(tmp_path, away, "https://portal.example.com")
    (used,) = used_datasets(desk.known, [("test", FRAME)])
    assert (len(used.id), used.here) == (64, False)


def test_roles_come_from_the_dict_or_from_the_datasets_own_label(desk):
    train = desk.table(FRAME, "t", {"split": "train"})
    other = desk.table(FRAME.assign(b=1), "o", {"split": "fold 3"})
    assert named_datasets([train, other]) == [("train", train), ("", other)]
    assert named_datasets({"test": train}) == [("test", train)]
    assert named_datasets(train) == [("", train)]
    for wrong in ({"tran": train}, "train", 3):
        with pytest.raises(UsageError):
            named_datasets(wrong)
