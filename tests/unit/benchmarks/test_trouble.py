from __future__ import annotations

from benchmarks.trouble import page


def test_the_table_says_who_hung_who_lost_what_and_who_could_not_be_measured() -> None:
    well = {"code": 0, "init_seconds": 0.05, "accepted": 1000, "raised": 0, "found": 1000, "longest_call": 0.001}
    table = page(
        {
            "seclea": well | {"finish_seconds": 0.1, "exit_seconds": 0.1, "output_bytes": 120},
            "trackio": well | {"found": 400, "output_bytes": 0, "first_error": "OSError: full"},
            "swanlab": {"code": -9, "stage": "finish", "accepted": 5, "output_bytes": 1},
            "wandb": {"error": "no small disk here"},
        }
    ).splitlines()
    ours, trackio, swanlab, wandb = table[2:]
    assert "| 1,000 | 0 | 1,000 | 0 | 0.001 | 0.2 | 120 |" in ours
    assert "| 400 | 600 |" in trackio and "OSError: full" in trackio
    assert "**hung in finish**" in swanlab and "no small disk here" in wandb
