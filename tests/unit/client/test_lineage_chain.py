"""A chain of transformations: run again, compared, recorded; and what is refused, with the words that say where."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from seclea import DatasetTransformation
from seclea.client.snapshot.digest import content_digest
from seclea.entities import Dataset
from seclea.errors import (
    DatasetError,
    DuplicateError,
    PortalUnavailable,
    TooLargeError,
    TransformationError,
    UnknownDatasetError,
    UsageError,
)
from tests.unit.client.lineage_desk import Desk

ROWS = 40
RATE = 2.0


def raw_frame() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, ROWS).astype(float),
            "pay": rng.normal(size=ROWS),
            "paid": rng.integers(0, 2, ROWS),
        }
    )
    frame.loc[::5, "age"] = np.nan
    return frame


def impute(df, value=40.0):
    return df.fillna({"age": value})


def scale(df, factor):
    return df.assign(pay=df.pay * factor)


def by_rate(df):
    return df.assign(pay=df.pay * RATE)


def part(df, seed):
    """A shuffled half, as X, y and the rest."""
    order = np.random.default_rng(seed).permutation(len(df))
    half, rest = df.iloc[order[: len(df) // 2]], df.iloc[order[len(df) // 2 :]]
    return half.drop(columns="paid"), half["paid"], rest


def take_apart(df):
    return df.drop(columns="paid"), df["paid"]


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def raw(desk: Desk) -> pd.DataFrame:
    frame = raw_frame()
    desk.table(
        frame, "raw", {"outputs": ["paid"], "outputs_type": "classification", "continuous_features": ["age", "pay"]}
    )
    return frame


def steps(raw, *, value=40.0, factor=3.0, seed=7, outputs=("X", "y", None), split="train"):
    return [
        DatasetTransformation(impute, {"df": raw}, {"value": value}),
        DatasetTransformation(scale, {"df": "inherit"}, {"factor": factor}),
        DatasetTransformation(part, {"df": "inherit"}, {"seed": seed}, outputs=list(outputs), split=split),
    ]


def train(raw):
    return part(scale(impute(raw), 3.0), 7)


def refused(kind, call, *words: str) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind, repr(caught.value)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value} does not say {missing}"
    return str(caught.value)


# --- what is recorded


def test_a_chain_becomes_datasets_and_steps_in_the_order_of_descent(desk, raw):
    X, y, _ = train(raw)
    made = desk.split(X, y, "train", transformations=steps(raw))
    root, imputed, scaled, final = desk.datasets
    assert final == made
    assert [(one.name, one.intermediate) for one in desk.datasets] == [
        ("raw", False), ("train-impute", True), ("train-scale", True), ("train", False),
    ]  # fmt: skip
    assert [one.parent for one in desk.datasets] == [None, root.uuid, imputed.uuid, scaled.uuid]
    assert [(one.name, one.dataset, one.inputs, one.order) for one in desk.steps] == [
        ("impute", imputed.uuid, (root.uuid,), 0),
        ("scale", scaled.uuid, (imputed.uuid,), 1),
        ("part", final.uuid, (scaled.uuid,), 2),
    ]
    kinds = [type(one).__name__ for one in desk.handed]
    assert kinds == ["Dataset", "Dataset", "DatasetTransformation"] + ["Dataset", "DatasetTransformation"] * 2
    assert desk.left_behind() == []


def test_each_step_stores_the_table_that_the_function_gave(desk, raw):
    X, y, _ = train(raw)
    desk.split(X, y, "train", transformations=steps(raw))
    _, imputed, scaled, final = desk.datasets
    for dataset, frame in ((imputed, impute(raw)), (scaled, scale(impute(raw), 3.0)), (final, X.assign(paid=y))):
        wanted = content_digest(pa.Table.from_pandas(frame))
        assert dataset.content_digest == wanted == content_digest(desk.read(dataset))


def test_a_step_says_what_it_was_and_what_it_changed(desk, raw):
    X, y, _ = train(raw)
    desk.split(X, y, "train", transformations=steps(raw))
    first, _, last = desk.steps
    root, *_, final = desk.datasets
    assert first.code_raw == 'def impute(df, value=40.0):\n    return df.fillna({"age": value})'
    assert first.details["function"]["qualified_name"] == f"{__name__}.impute"
    assert first.details["arguments"] == {
        "data": [{"name": "df", "inherited": False, "dataset": root.uuid, "digest": root.digest}],
        "kwargs": {"value": 40.0},
    }
    assert first.details["before"] == {"rows": ROWS, "columns": 3, "nulls": 8}
    assert first.details["after"] == {"rows": ROWS, "columns": 3, "nulls": 0}
    assert first.details["changes"] == {
        "added": [], "removed": [], "changed": ["age"], "rows": 0, "reordered": False, "index": False,
        "roles": False, "split": False,
    }  # fmt: skip
    assert last.details["changes"]["rows"] == -ROWS // 2 and last.details["changes"]["index"]
    assert last.details["changes"]["roles"] and last.details["changes"]["split"]
    assert last.details["output"] == {"digest": final.digest, "content_digest": final.content_digest}
    assert (last.details["outputs"], last.details["split"]) == (["X", "y", None], "train")
    assert last.details["verdict"] == "reproduced"
    assert last.details["versions"].keys() >= {"python", "pandas", "numpy", "pyarrow"}


def test_columns_in_another_order_are_a_change_that_is_told(desk, raw):
    def turn(df):
        return df[["paid", "pay", "age"]]

    desk.table(turn(raw), "turned", transformations=[DatasetTransformation(turn, {"df": raw})])
    changes = desk.steps[0].details["changes"]
    assert changes["reordered"] and not (changes["added"] or changes["removed"] or changes["changed"])


def test_roles_split_and_metadata_go_down_the_chain(desk, raw):
    X, y, _ = train(raw)
    made = desk.split(X, y, "train", {"team": "A"}, steps(raw))
    assert made.metadata["roles"] == {"X": ["age", "pay"], "y": ["paid"]}
    assert (made.metadata["split"], made.metadata["outputs"], made.metadata["team"]) == ("train", ["paid"], "A")
    assert made.metadata["outputs_info"] == {"paid": {"type": "classification", "classes": [0, 1]}}
    for one in desk.datasets[1:3]:
        assert (one.metadata["split"], one.metadata["outputs"]) == (None, ["paid"])
        assert one.metadata["continuous_features"] == ["age", "pay"]
    child = desk.table(X.assign(paid=y, more=1.5), "more", transformations=[
        DatasetTransformation(lambda df: df.assign(more=1.5), {"df": X.assign(paid=y)}),
    ])  # fmt: skip
    assert child.metadata["split"] == "train"  # a child inherits the label
    assert child.parent == made.uuid


def test_two_parts_of_one_split_share_the_way_to_it(desk, raw):
    X, y, rest = train(raw)
    desk.split(X, y, "train", transformations=steps(raw))
    before = len(desk.handed)
    test = desk.table(rest, "test", transformations=steps(raw, outputs=(None, None, "df"), split="test"))
    assert [type(one).__name__ for one in desk.handed[before:]] == ["Dataset", "DatasetTransformation"]
    assert test.parent == next(one for one in desk.datasets if one.name == "train-scale").uuid
    assert desk.left_behind() == []


def test_the_same_upload_again_records_nothing(desk, raw):
    X, y, _ = train(raw)
    first = desk.split(X, y, "train", transformations=steps(raw))
    before = list(desk.handed)
    assert desk.split(X, y, "train", transformations=steps(raw)) == first
    assert desk.handed == before and desk.left_behind() == []


def test_the_same_rows_may_be_recorded_as_a_table_and_as_the_labelled_part(desk, raw):
    whole = desk.table(raw.assign(k=1), "whole")
    apart = desk.split(raw.drop(columns="paid"), raw["paid"], "with roles")
    labelled = desk.table(raw, "labelled", {"split": "all"})
    assert len({whole.digest, apart.digest, labelled.digest, desk.datasets[0].digest}) == 4
    assert apart.content_digest == labelled.content_digest == desk.datasets[0].digest


def test_a_step_that_only_gives_roles_or_a_label_is_a_step(desk, raw):
    X, y = take_apart(raw)
    roles = desk.split(
        X, y, "roles", transformations=[DatasetTransformation(take_apart, {"df": raw}, outputs=["X", "y"])]
    )
    assert roles.content_digest == desk.datasets[0].digest
    label = [DatasetTransformation(lambda X, y: (X, y), {"X": X, "y": y}, split="all")]
    assert desk.split(X, y, "labelled", transformations=label).parent == roles.uuid


def test_a_pair_like_x_and_y_names_the_dataset_that_both_make_up(desk, raw):
    X, y = take_apart(raw)
    step = DatasetTransformation(lambda X_all, y_all: (X_all * 2, y_all), {"X_all": X, "y_all": y})
    made = desk.split(X * 2, y, "doubled", transformations=[step])
    assert made.parent == desk.datasets[0].uuid
    assert desk.steps[0].inputs == (desk.datasets[0].uuid,)


def test_a_join_has_a_primary_parent_and_lists_its_other_inputs(desk, raw):
    towns = pd.DataFrame({"town": [f"t{n}" for n in range(ROWS)]})
    other = desk.table(towns, "towns")
    joined = raw.join(towns)
    made = desk.table(joined, "joined", transformations=[DatasetTransformation(
        lambda left, right: left.join(right), {"left": raw, "right": towns}, outputs=["df"])])  # fmt: skip
    assert made.parent == desk.datasets[0].uuid
    assert desk.steps[0].inputs == (desk.datasets[0].uuid, other.uuid)
    assert [item["dataset"] for item in desk.steps[0].details["arguments"]["data"]] == list(desk.steps[0].inputs)
    later = joined.assign(n=towns["town"].str.len())
    count = lambda df, more: df.assign(n=more["town"].str.len())  # noqa: E731
    chain = [
        DatasetTransformation(lambda left, right: left.join(right), {"left": raw, "right": towns}, outputs=["df"]),
        DatasetTransformation(count, {"df": "inherit", "more": towns}, outputs=["df"]),
    ]
    desk.table(later, "later", transformations=chain)
    assert desk.steps[-1].inputs == (made.uuid, other.uuid)


def test_a_step_that_cannot_be_repeated_is_declared_and_says_so(desk, raw):
    noisy = raw.assign(pay=raw.pay + np.random.default_rng().normal(size=ROWS))

    def add_noise(df):
        raise AssertionError("must not be called")

    declared = DatasetTransformation(add_noise, {"df": raw}, reproduce=False)
    desk.table(noisy, "noisy", transformations=[declared])
    assert desk.steps[0].details["verdict"] == "declared, not verified"
    after = [declared, DatasetTransformation(scale, {"df": noisy}, {"factor": 2.0})]
    made = desk.table(scale(noisy, 2.0), "after", transformations=after)
    assert made.parent == desk.datasets[1].uuid
    assert desk.steps[-1].details["verdict"] == "reproduced"
    blind = [declared, DatasetTransformation(scale, {"df": "inherit"}, {"factor": 2.0})]
    refused(
        UsageError,
        lambda: desk.table(scale(noisy, 2.0), "x", transformations=blind),
        "not run again",
        "step 2",
        '"inherit"',
    )


def test_functions_get_copies_and_the_random_numbers_of_the_job_are_not_moved(desk, raw):
    kept = raw.copy(deep=True)

    def in_place(df):
        random.random()
        np.random.rand()
        df["age"] = df["age"].fillna(0.0)
        df.loc[0, "pay"] = 9.0
        return df

    wanted = in_place(raw.copy(deep=True))
    random.seed(1)
    np.random.seed(1)
    drawn = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    desk.table(wanted, "changed", transformations=[DatasetTransformation(in_place, {"df": raw})])
    assert (random.random(), np.random.rand()) == drawn
    pd.testing.assert_frame_equal(raw, kept)


@pytest.mark.parametrize("make", [pl.from_pandas, pa.Table.from_pandas], ids=["polars", "arrow"])
def test_chains_of_polars_and_arrow_tables(desk, make):
    table = make(raw_frame())
    desk.table(table, "raw")

    def head(df):
        return df.slice(0, 5)

    made = desk.table(head(table), "head", transformations=[DatasetTransformation(head, {"df": table})])
    assert made.parent == desk.datasets[0].uuid and made.metadata["num_samples"] == 5


def test_a_chain_may_start_from_a_csv_that_pandas_reads(desk, tmp_path):
    path = tmp_path / "in.csv"
    raw_frame().to_csv(path, index=False)
    first = desk.table(path, "raw")
    frame = pd.read_csv(path)
    made = desk.table(impute(frame), "clean", transformations=[DatasetTransformation(impute, {"df": frame})])
    assert made.parent == first.uuid


# --- the same source, other constants


def test_another_closure_is_another_step_though_source_and_result_are_the_same(desk, raw):
    def above(limit):
        def keep(df):
            return df[df.pay > limit].assign(kept=True)

        return keep

    result = above(-100)(raw)
    for limit in (-100, -200, -200):
        desk.table(result, "kept", transformations=[DatasetTransformation(above(limit), {"df": raw})])
    assert [one.details["captured"] for one in desk.steps] == [
        [{"where": "closure", "name": "limit", "value": -100}],
        [{"where": "closure", "name": "limit", "value": -200}],
    ]  # not three, and not one
    assert len({one.details["function"]["fingerprint"] for one in desk.steps}) == 2
    assert len({one.code_raw for one in desk.steps}) == len({one.dataset for one in desk.steps}) == 1


# --- what is refused, and where


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": 41.0}, ("column 'age', row", "41.0 in the chain and 40.0 in the dataset", "step 1, 'impute'")),
        ({"factor": 3.1}, ("column 'pay', row 0", "in the chain and", "last changed by step 2, 'scale'")),
        (
            {"seed": 8},
            ("the rows (by their index) are others: row 0 is", "last chosen by step 3, 'part'", "fixed seed"),
        ),
    ],
)
def test_a_changed_constant_or_seed_is_caught_and_the_step_named(desk, raw, change, words):
    X, y, _ = train(raw)
    before = list(desk.handed)
    refused(TransformationError, lambda: desk.split(X, y, "train", transformations=steps(raw, **change)), *words)
    assert desk.handed == before and desk.left_behind() == []


def test_one_flipped_cell_is_caught_by_row_column_and_both_values(desk, raw):
    X, y, _ = train(raw)
    X = X.copy()
    X.loc[X.index[6], "pay"] = 0.5
    words = f"column 'pay', row 6 (index {X.index[6]})"
    refused(
        TransformationError, lambda: desk.split(X, y, "train", transformations=steps(raw)), words, "0.5 in the dataset"
    )


def test_a_swapped_label_column_is_caught(desk):
    frame = raw_frame().assign(other=lambda df: 1 - df.paid)
    desk.table(frame, "raw")
    swapped = impute(frame).rename(columns={"paid": "other", "other": "paid"})[["age", "pay", "paid", "other"]]
    call = lambda: desk.table(swapped, "x", transformations=[DatasetTransformation(impute, {"df": frame})])  # noqa: E731
    refused(TransformationError, call, "the columns 'paid' and 'other' are swapped")


def test_a_chain_in_another_order_is_caught(desk, raw):
    def centre(df):
        return df.assign(age=df.age - df.age.mean())

    wanted = centre(impute(raw))
    chain = [DatasetTransformation(centre, {"df": raw}), DatasetTransformation(impute, {"df": "inherit"})]
    refused(
        TransformationError,
        lambda: desk.table(wanted, "x", transformations=chain),
        "column 'age', row 0",
        "step 2, 'impute'",
    )


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda df: df.rename(columns={"age": "years"}), "the chain lacks the columns 'years' and has 'age'"),
        (lambda df: df[["pay", "age", "paid"]], "the columns stand in another order: column 0 is 'age' in the chain and 'pay'"),
        (lambda df: df.astype({"paid": "int32"}), "column 'paid' is int64 in the chain and int32 in the dataset"),
        (lambda df: df.iloc[:-1], f"the chain has {ROWS} rows, the dataset has {ROWS - 1}"),
        (lambda df: df.iloc[::-1], f"the rows stand in another order: row 0 is 0 in the chain and {ROWS - 1} in the dataset"),
        (lambda df: df.set_index(pd.RangeIndex(5, 5 + ROWS)), "(by their index) are others: row 0 is 0 in the chain and 5"),
        (lambda df: df.assign(age=df.age.where(df.index > 0)), "row 0: 40.0 in the chain and missing in the dataset"),
    ],
)  # fmt: skip
def test_where_chain_and_dataset_differ_is_said_in_words(desk, raw, edit, words):
    call = lambda: desk.table(edit(impute(raw)), "x", transformations=steps(raw)[:1])  # noqa: E731
    refused(TransformationError, call, "The chain does not lead to the dataset", words)


def test_a_step_given_another_table_than_the_one_before_made_is_caught(desk, raw):
    wrong = impute(raw).replace({"age": {40.0: 41.0}})
    chain = [steps(raw)[0], DatasetTransformation(scale, {"df": wrong}, {"factor": 3.0})]
    refused(
        TransformationError, lambda: desk.table(scale(wrong, 3.0), "x", transformations=chain),
        "Step 1 of 2, 'impute', does not give the 'df' that step 2 was given", "column 'age', row 0: 40.0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("func", "words"),
    [
        (lambda df: df, ("changes nothing",)),
        (lambda df: df.copy(), ("changes nothing",)),
        (lambda df: None, ("returned None", "Does it end without return")),
        (lambda df: (df, df), ("returned 2 values, outputs names 1",)),
        (lambda df: [], ("returned 0 values, outputs names 1",)),
        (lambda df: df.missing, ("raised AttributeError when it was run again", "missing")),
        (lambda df: df.to_numpy(), ("returned no table", "numpy.ndarray", "pd.DataFrame(X, columns=[…]")),
        (lambda df: df.iloc[:0], ("is empty: 0 rows, 3 columns",)),
        (lambda df: df.assign(odd=[1, "x"] * (len(df) // 2)), ("cannot be recorded", "odd", "values of one type")),
        (lambda df: pd.concat([df, df], axis=1), ("several columns named 'age'",)),
    ],
)
def test_a_step_that_gives_nothing_usable_is_named_with_the_way_out(desk, raw, func, words):
    before = list(desk.handed)
    chain = [DatasetTransformation(func, {"df": raw}), *steps("inherit")[1:]]
    X, y, _ = train(raw)
    refused(TransformationError, lambda: desk.split(X, y, "x", transformations=chain), "Step 1 of 3, 'lambda',", *words)
    assert desk.handed == before and desk.left_behind() == []


def test_steps_that_undo_each_other_are_refused(desk, raw):
    there, back = DatasetTransformation(scale, {"df": raw}, {"factor": 2.0}), None
    back = DatasetTransformation(scale, {"df": "inherit"}, {"factor": 0.5})
    refused(
        TransformationError, lambda: desk.table(raw, "again", transformations=[there, back]),
        "Step 2 of 2, 'scale', gives back the content of a dataset that it comes from", "undo each other",
    )  # fmt: skip


def test_a_parent_that_is_not_known_is_refused_with_the_nearest_that_is(desk, raw):
    changed = raw.copy()
    changed.loc[3, "pay"] = 1.0
    call = lambda: desk.table(impute(changed), "x", transformations=[DatasetTransformation(impute, {"df": changed})])  # noqa: E731
    refused(
        UnknownDatasetError, call, "'df', which is no dataset of the project", "Nearest is 'raw'", "other values in 'pay'",
        "changed in place",
    )  # fmt: skip
    part = raw.head(20)
    call = lambda: desk.table(impute(part), "x", transformations=[DatasetTransformation(impute, {"df": part})])  # noqa: E731
    refused(UnknownDatasetError, call, "Nearest is 'raw', but 'df' has 20 rows instead of 40")
    stranger = pd.DataFrame({"q": [1.0, None]})
    call = lambda: desk.table(stranger.fillna(2), "x", transformations=[  # noqa: E731
        DatasetTransformation(lambda df: df.fillna(2), {"df": stranger})])  # fmt: skip
    refused(UnknownDatasetError, call, "(2 rows, 1 columns)", "Upload it first")


def test_a_table_that_joins_must_be_known_too(desk, raw):
    chain = [
        DatasetTransformation(
            lambda df, o: df.join(o), {"df": raw, "o": pd.DataFrame({"o": range(ROWS)})}, outputs=["df"]
        )
    ]
    refused(UnknownDatasetError, lambda: desk.table(raw, "x", transformations=chain), "'o', which is no dataset")


def test_a_transformation_that_worked_in_place_is_noticed_because_its_input_is_known_no_more(desk, raw):
    def in_place(df):
        df["age"] = df["age"].fillna(0.0)
        return df

    result = in_place(raw)
    call = lambda: desk.table(result, "x", transformations=[DatasetTransformation(in_place, {"df": raw})])  # noqa: E731
    refused(UnknownDatasetError, call, "Nearest is 'raw'", "other values in 'age'", "changed in place since")


def test_inherit_needs_an_output_of_that_name_before_it(desk, raw):
    first = [DatasetTransformation(impute, {"df": "inherit"})]
    refused(UsageError, lambda: desk.table(raw, "x", transformations=first), "inherits 'df', but no step is before it")
    other = [steps(raw)[0], DatasetTransformation(lambda data: data, {"data": "inherit"})]
    refused(
        UsageError,
        lambda: desk.table(raw, "x", transformations=other),
        "'data', which is no output of 'impute'",
        "'df'",
    )
    loose = [steps(raw)[0], DatasetTransformation(lambda data: data.head(), {"data": raw})]
    refused(UsageError, lambda: desk.table(raw, "x", transformations=loose), "takes none of the outputs of 'impute'")


def test_names_and_contents_that_are_taken_are_refused(desk, raw):
    refused(DuplicateError, lambda: desk.table(raw.head(), "raw"), "'raw' already, with other content")
    refused(DuplicateError, lambda: desk.table(raw, "same"), "the same content already, as the dataset 'raw'")
    assert desk.left_behind() == []


def test_a_named_upload_of_what_is_known_as_a_step_is_that_step(desk, raw, capsys):
    X, y, _ = train(raw)
    desk.split(X, y, "train", transformations=steps(raw))
    assert desk.table(impute(raw), "imputed").name == "train-impute"
    assert "'imputed' is recorded already, as the step 'train-impute'" in capsys.readouterr().err


def test_one_function_twice_in_a_chain_gives_two_names_and_long_names_fit(desk, raw):
    chain = [DatasetTransformation(scale, {"df": raw}, {"factor": 2.0})]
    chain += [DatasetTransformation(scale, {"df": "inherit"}, {"factor": 2.0}) for _ in range(2)]
    name = "x" * 256
    desk.table(scale(raw, 8.0), name, transformations=chain)
    names = [one.name for one in desk.datasets[1:]]
    assert [len(one) for one in names] == [256, 256, 256]
    assert len(set(names)) == 3


def test_a_payload_larger_than_the_limit_is_refused_before_anything_is_handed_over(desk, raw):
    X, y, _ = train(raw)
    desk.disk_limit = 100
    before = list(desk.handed)
    refused(
        TooLargeError,
        lambda: desk.split(X, y, "train", transformations=steps(raw)),
        "a step on the way to it",
        "limits.disk",
    )
    assert desk.handed == before and desk.left_behind() == []


# --- parents at the portal


class _Api:
    """What `KnownDatasets` asks of a portal."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def organization_uuid(self, name):
        return "o"

    def find(self, kind, **filters):
        if kind == "project":
            return [{"uuid": "p", "name": filters["name"]}]
        digest = filters["hash"]
        return (
            [{"uuid": self.known[digest], "hash": digest, "name": "far", "metadata": {"outputs": ["paid"]}}]
            if digest in self.known
            else []
        )

    def close(self):
        pass


def test_a_parent_that_only_the_portal_has_is_taken_and_not_waited_for(tmp_path):
    raw = raw_frame()
    uuid = "01999999-9999-7999-8999-999999999999"
    api = _Api({content_digest(pa.Table.from_pandas(raw)): uuid})
    desk = Desk(tmp_path, lambda: api, "https://portal.example.com")
    made = desk.table(impute(raw), "clean", transformations=[DatasetTransformation(impute, {"df": raw})])
    assert (made.parent, made.at_portal) == (uuid, (uuid,))
    assert (desk.steps[0].inputs, desk.steps[0].at_portal) == ((uuid,), (uuid,))
    assert made.metadata["outputs"] == ["paid"]
    stranger = raw.assign(k=1)
    call = lambda: desk.table(impute(stranger), "x", transformations=[DatasetTransformation(impute, {"df": stranger})])  # noqa: E731
    refused(UnknownDatasetError, call, "no dataset of the project")


def test_a_portal_that_does_not_answer_is_no_no_and_the_parent_is_named_by_its_digest(tmp_path):
    def away():
        raise PortalUnavailable("away")

    raw = raw_frame()
    desk = Desk(tmp_path, away, "https://portal.example.com")
    made = desk.table(impute(raw), "clean", transformations=[DatasetTransformation(impute, {"df": raw})])
    assert made.parent is None and made.parent_hash == content_digest(pa.Table.from_pandas(raw))
    assert desk.steps[0].inputs == ()
    assert desk.steps[0].details["arguments"]["data"][0]["digest"] == made.parent_hash


# --- X and y


@pytest.mark.parametrize(
    ("X", "y", "kind", "words"),
    [
        (raw_frame(), [0] * ROWS, UsageError, ("y of the dataset 'x' cannot be a builtins.list",)),
        (raw_frame(), np.zeros(ROWS), UsageError, ("y of the dataset 'x'", "pd.Series(y, index=X.index")),
        (raw_frame().to_numpy(), pd.Series([0] * ROWS), UsageError, ("X of the dataset 'x'", "pd.DataFrame(X")),
        (raw_frame(), pd.Series([0, 1], name="t"), DatasetError, (f"X of the dataset 'x' has {ROWS} rows and y has 2",)),
        (raw_frame(), raw_frame()["paid"], DatasetError, ("both have the column 'paid'",)),
        (
            raw_frame().set_index(pd.Index(range(1, ROWS + 1))), pd.Series([0] * ROWS, name="t"), DatasetError,
            ("different indexes",),
        ),
    ],
)  # fmt: skip
def test_x_and_y_that_do_not_belong_together_are_refused(desk, X, y, kind, words):
    refused(kind, lambda: desk.split(X, y, "x"), *words)
    assert desk.handed == [] and desk.left_behind() == []


def test_y_may_be_a_frame_of_several_outputs(desk):
    frame = raw_frame()
    made = desk.split(frame[["age"]], frame[["pay", "paid"]], "two")
    assert isinstance(made, Dataset) and made.metadata["outputs"] == ["pay", "paid"]
    assert made.metadata["features"] == ["age", "pay", "paid"]
