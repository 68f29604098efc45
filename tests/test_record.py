"""Recorded results: made anew from their scores when the code that evaluates them changes."""

import pandas as pd
import pytest
from conftest import command, one_sentence
from test_report import fake_scores

from stedm.config import load_config
from stedm.errors import UserError
from stedm.study import Study
from stedm.tools.record import record_again


def test_what_follows_from_recorded_scores_is_made_anew_and_the_rest_stays(project):
    study = Study(load_config(project / "config" / "mini.yaml"), project)
    with pytest.raises(UserError, match="only a recorded result can be made again") as error:
        record_again(study)
    one_sentence(error)
    out = project / "results" / "reference" / "mini"
    (out / "tables").mkdir(parents=True)
    (out / "figures").mkdir()
    (out / "made-by.json").write_text("as it was")
    (out / "tables" / "checkpoints.csv").write_text("arm,budget,validation_labels\nreal,1,2\nsynthetic,1,2;3\n")
    arms = {"real": (0.46, 0.2), "synthetic": (0.7, 0.1)}
    scores = fake_scores(patients=6, budgets=(1,), seeds=(0,), arms=arms)
    scores.to_parquet(out / "scores.parquet", index=False)
    command(project, "stedm", "record", "config/mini.yaml", "--again")
    made = {path.name: path.read_bytes() for path in out.rglob("*") if path.suffix in (".csv", ".png")}
    assert {"claims.csv", "headline.csv", "iou-per-patient.png"} <= made.keys()
    assert (out / "made-by.json").read_text() == "as it was"
    labels = pd.read_csv(out / "tables" / "checkpoints.csv", dtype=str)["validation_labels"]
    assert labels.tolist() == ["2", "2;3"]
    (out / "claims.csv").write_text("typed")
    (out / "tables" / "headline.csv").write_text("typed")
    record_again(study)
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.suffix in (".csv", ".png")} == made
