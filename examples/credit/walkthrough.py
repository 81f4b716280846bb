"""500 loans, 400 to learn from and 100 to judge by, three ways: `lepton up --detach`, then `python walkthrough.py`.

The verdict as a number (bad is 1) by least squares, and by gradient descent, which should come to the same; then the
verdict itself by boosted trees.
"""

from pathlib import Path

import pandas as pd

import lepton
from lepton.models import Model

_DATA = Path(__file__).with_name("german_credit.csv")
_VERDICT, _RISK = "creditability", "risk"
_ROWS, _TRAIN_ROWS = 500, 400


def main() -> None:
    """Import, train three models, judge each, and show where the first two agree."""
    loans = pd.read_csv(_DATA).head(_ROWS)
    risks = loans.drop(columns=_VERDICT).assign(**{_RISK: (loans[_VERDICT] == "bad").astype(float)})
    train, test = (
        lepton.Dataset.import_frame(rows, name, label=_RISK)
        for rows, name in ((risks[:_TRAIN_ROWS], "loans"), (risks[_TRAIN_ROWS:], "loans-test"))
    )
    exact = lepton.LinearRegression(name="risk").fit(train, evaluation_data=test)
    stepped = lepton.LinearRegression(name="risk-by-steps", solver="gradient_descent", optimizer="adam", epochs=200)
    stepped.fit(train, evaluation_data=test)
    judged = risks[_TRAIN_ROWS:].drop(columns=_RISK)
    answers = [lepton.Deploy(model).save().predict(judged)[_RISK] for model in (exact, stepped)]
    print(f"least squares     {_figures(exact, 'rmse', 'r2')}")
    print(f"gradient descent  {_figures(stepped, 'rmse', 'r2')}")
    print(f"they agree to     correlation {answers[0].corr(answers[1]):.3f} on {len(judged)} loans")
    trees = lepton.BoostedTrees(name="verdict", n_estimators=100).fit(
        lepton.Dataset.import_frame(loans[:_TRAIN_ROWS], "verdicts", label=_VERDICT),
        evaluation_data=lepton.Dataset.import_frame(loans[_TRAIN_ROWS:], "verdicts-test", label=_VERDICT),
    )
    print(f"boosted trees     {_figures(trees, 'accuracy', 'roc_auc')}")


def _figures(model: Model, *names: str) -> str:
    return ", ".join(f"{name} {model.metrics[name]:.3f}" for name in names)


if __name__ == "__main__":
    main()
