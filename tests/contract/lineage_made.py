"""Made-up projects for the lineage's tests and for looking at its pages: what the client would send, in docs/lineage.md's form.

``python -m tests.contract.lineage_made FOLDER`` starts a portal on the folder, fills it and prints a link that lets a
browser in.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.contract.portal_server import Session, Stream, running_portal, upload

COLUMNS = ["age", "tenure_months", "claim_amount", "region", "vehicle_class", "prior_claims", "is_fraud"]
SOURCES = {
    "impute": """def impute(df, strategy="median"):
    # Fill what is missing, column by column.
    numbers = df.select_dtypes("number")
    return df.assign(**numbers.fillna(getattr(numbers, strategy)()))
""",
    "drop_correlated": """def drop_correlated(df):
    correlations = df.corr(numeric_only=True).abs()
    upper = correlations.where(np.triu(np.ones(correlations.shape), k=1).astype(bool))
    return df.drop(columns=[name for name in upper if (upper[name] > THRESHOLD).any()])
""",
    "scale": """def scale(df):
    numbers = df.select_dtypes("number").columns.difference([TARGET])
    return df.assign(**(df[numbers] - df[numbers].mean()) / df[numbers].std())
""",
    "split": """def split(df, *, seed, test_size=0.2):
    return train_test_split(df, random_state=seed, test_size=test_size)
""",
    "join_regions": """def join_regions(df, regions):
    return df.merge(regions, on="region", how="left")
""",
    "encode": "encode = lambda df: pd.get_dummies(df, columns=['region', 'vehicle_class'])\n",
}
WHEN = 1_790_000_000_000_000_000


class Made:
    """A project that is being made: every method posts one object and keeps its uuid."""

    def __init__(self, session: Session, name: str, description: str = "", organization: str | None = None) -> None:
        self.session = session
        self.organization = organization or session.get("/organization/").json()[0]["uuid"]
        self.stream = Stream(session, self.organization)
        self.project = self.post("project", "projects", {"name": name, "description": description})
        self.payload = upload(session, self.organization, b"a,b\n1,2\n")
        self.weights = upload(session, self.organization, b"w" * 4096)
        self.states: dict[str, list[str]] = {}

    def post(self, kind: str, path: str, body: dict[str, Any]) -> str:
        made = str(uuid.uuid4())
        lane = "bulk" if "chunks" in body else "ordered"
        reply = self.stream.send(lane, kind, f"/collection/{path}", {"uuid": made, **body})
        assert reply.status_code == 201, reply.text
        return made

    def dataset(self, name: str, parent: str | None = None, **fields: Any) -> str:
        digest = hashlib.sha256(f"{self.project} {name}".encode()).hexdigest()
        metadata = {
            "num_samples": 569,
            "dataset_type": "tabular",
            "features": COLUMNS,
            "categorical_features": ["region", "vehicle_class"],
            "categorical_values": [
                {"region": ["north", "east", "south", "west"]},
                {"vehicle_class": ["car", "van", "truck"]},
            ],
            "outputs_info": {"is_fraud": ["no", "yes"]},
            "split": None,
            "framework": "pandas",
            "content_digest": hashlib.sha256(digest.encode()).hexdigest(),
            "column_digests": {column: hashlib.sha256(column.encode()).hexdigest() for column in COLUMNS},
            **fields.pop("metadata", {}),
        }
        body = {"project": self.project, "name": name, "hash": digest, "metadata": metadata, "format": "parquet"}
        return self.post("dataset", "datasets", {**body, "parent": parent, **self.payload, **fields})

    def step(self, function: str, made: str, inputs: Sequence[str], order: int = 0, /, **details: Any) -> str:
        """The record of a step, with everything that the client says of one."""
        name = function.split(" ")[0]
        body = {
            "dataset": made,
            "inputs": list(inputs),
            "name": function,
            "code_raw": SOURCES.get(name, f"def {function}(df):\n    return df\n"),
            "code_encoded": "",
            "order": order,
            "details": {**self.details(function, inputs), **details},
        }
        return self.post("dataset_transformation", "dataset-transformations", body)

    def details(self, function: str, inputs: Sequence[str]) -> dict[str, Any]:
        digest = hashlib.sha256(function.encode()).hexdigest()
        names = ["df", "regions", "other", "more"]
        return {
            "function": {
                "qualified_name": f"prepare.{function}",
                "module": "prepare",
                "kind": "lambda" if function == "encode" else "function",
                "fingerprint": digest,
            },
            "source": {"file": "prepare.py", "line": 12 + len(function), "missing": None},
            "captured": [{"where": "global", "name": "THRESHOLD", "value": 0.95}]
            if function == "drop_correlated"
            else [],
            "helpers": [{"qualified_name": "prepare.clip", "source": "def clip(x):\n    return max(0, x)\n"}]
            if function == "scale"
            else [],
            "unverifiable": [],
            "arguments": {
                "data": [
                    {"name": name, "inherited": position == 0, "dataset": given, "digest": "0" * 64}
                    for position, (name, given) in enumerate(zip(names, inputs, strict=False))
                ],
                "kwargs": {"seed": 7, "test_size": 0.2} if function.startswith("split") else {},
            },
            "outputs": [None],
            "split": None,
            "verdict": "declared, not verified" if function == "encode" else "reproduced",
            "output": {"digest": digest, "content_digest": digest},
            "before": {"rows": 569, "columns": 7, "nulls": 41 if function == "impute" else 0},
            "after": {"rows": 569, "columns": 6 if function == "drop_correlated" else 7, "nulls": 0},
            "changes": {
                "added": [],
                "removed": ["tenure_months"] if function == "drop_correlated" else [],
                "changed": ["age", "claim_amount"] if function in ("impute", "scale") else [],
                "rows": 0,
                "reordered": False,
                "roles": False,
                "split": False,
                "index": False,
            },
            "versions": {"python": "3.11.7", "pandas": "2.3.1", "numpy": "2.2.6"},
        }

    def chain(self, name: str, parent: str, functions: Sequence[str], **last: Any) -> str:
        """Steps one after the other: intermediates named after them, then the dataset itself."""
        for order, function in enumerate(functions):
            is_last = order == len(functions) - 1
            fields = last if is_last else {"intermediate": True}
            made = self.dataset(name if is_last else f"{name}-{function}", parent, **fields)
            self.step(function, made, [parent], order)
            parent = made
        return parent

    def run(self, name: str, used: Sequence[tuple[str, str | None]], states: int = 3, **fields: Any) -> str:
        model = fields.pop("model", None)
        body = {
            "project": self.project,
            "name": name,
            "model": model,
            "datasets": [dataset for dataset, _ in used],
            "dataset_roles": [role for _, role in used],
            "params": {"C": 0.5, "solver": "lbfgs", "max_iter": 200},
            "metadata": {"application_type": "binary"},
            "started_ns": WHEN,
        }
        run = self.post("training_run", "training-runs", {**body, **fields})
        self.states[run] = [self.state(run, number, number == states - 1) for number in range(states)]
        if states:
            body = {"status": "finished", "finished_ns": WHEN + 90_000_000_000, "streams": []}
            reply = self.stream.send("ordered", "finish", f"/collection/training-runs/{run}/finish", body)
            assert reply.status_code == 201, reply.text
        return run

    def state(self, run: str, number: int, final: bool) -> str:
        body = {"training_run": run, "project": self.project, "sequence_num": number, "step": number * 100}
        body |= {"final_state": final, "format": "pickle", "framework": "sklearn", "created_ns": WHEN, **self.weights}
        return self.post("model_state", "model-states", body)

    def model(self, name: str) -> str:
        return self.post("model", "models", {"project": self.project, "name": name, "framework": "sklearn"})


def claims(
    session: Session, name: str = "Claims fraud", organization: str | None = None
) -> tuple[Made, dict[str, str]]:
    """raw → impute → drop_correlated → scale → train and test, a join with a second table, three runs with states."""
    made = Made(session, name, "Which claims are worth a second look.", organization)
    raw = made.dataset("claims-2026.csv", format="csv")
    regions = made.dataset("regions.csv", format="csv", metadata={"num_samples": 12, "features": ["region", "density"]})
    clean = made.chain("claims clean", raw, ["impute", "drop_correlated", "scale"])
    train, test = (
        made.dataset(f"claims {part}", clean, metadata={"num_samples": rows, "split": part})
        for part, rows in (("train", 455), ("test", 114))
    )
    for part, made_of_it, rows in (("train", train, 455), ("test", test, 114)):
        changes = {"added": [], "removed": [], "changed": [], "rows": rows - 569, "split": True, "index": True}
        made.step(
            "split", made_of_it, [clean], split=part, changes=changes, outputs=["train", "test"],
            before={"rows": 569, "columns": 6, "nulls": 0}, after={"rows": rows, "columns": 6, "nulls": 0},
        )  # fmt: skip
    joined = made.dataset("claims with regions", clean)
    join = made.step("join_regions", joined, [clean, regions])
    encoded = made.chain("claims encoded", joined, ["encode"])
    forest, logistic = made.model("RandomForestClassifier"), made.model("LogisticRegression")
    first = made.run("Training Run 1", [(train, "train"), (test, "test")], model=logistic)
    second = made.run("Training Run 2", [(train, "train"), (test, "test")], model=forest, states=5)
    third = made.run("Training Run 3", [(encoded, None)], model=forest, states=1)
    return made, {
        "raw": raw, "regions": regions, "clean": clean, "train": train, "test": test, "joined": joined, "join": join,
        "encoded": encoded, "first": first, "second": second, "third": third,
    }  # fmt: skip


def big(session: Session, organization: str | None = None) -> tuple[Made, list[str]]:
    """200 datasets in 40 chains from four raw tables, 30 runs, 300 states."""
    made, source = Made(session, "Portfolio risk", "", organization), random.Random(3)
    raws = [made.dataset(f"exposures-{year}.parquet") for year in range(2022, 2026)]
    functions = ["impute", "drop_correlated", "scale", "winsorise", "encode", "bin_ages", "fill_region", "log_amounts"]
    ends = []
    for number in range(40):
        length = 5 if number < 36 else 4
        parent = ends[number % 4] if number % 5 == 4 else raws[number % 4]
        ends.append(made.chain(f"features {number:02}", parent, source.sample(functions, length)))
    model = made.model("GradientBoostingRegressor")
    for number in range(30):
        used = [(ends[number], "train"), (ends[39 - number % 10], "test")]
        made.run(f"Training Run {number + 1}", used, states=10, model=model)
    return made, ends


def main(folder: str) -> None:
    with running_portal(Path(folder) / "data", "--port", "8765") as server:
        owner = server.owner()
        print("claims", claims(owner)[0].project)
        print("big", big(owner)[0].project, flush=True)
        print(owner.post("/internal/link").json()["url"], flush=True)
        while Path(folder).exists():  # by hand only: a person looks at the page until the folder is removed
            time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1])
