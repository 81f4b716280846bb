"""The families and their hyperparameters. Imports no library that trains, so that the service can list and check."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from servicekit.errors import InvalidArgument
from services.training.domain.families.hyperparameters import Hyperparameter, check_value, unknown_hyperparameter
from services.training.domain.families.neural.settings import TRAINING, training
from services.training.domain.problems import Problems


@dataclass(frozen=True)
class Family:
    """A model family.

    Args:
        name: its id.
        description: what it is for.
        tasks: regression, binary, multiclass, forecasting, embedding.
        hyperparameters: what can be set.
        reads: columns of numbers and categories, or columns of texts, one or two, or one of images in
            base64, or columns of series.
        from_scratch: hyperparameters that a body to begin from brings along, or that only count without one.
        from_body: other defaults, by what is `trainable`, where a fit begins from a body or goes on from a version;
            None where it begins from no body.
        rows_each: hyperparameters whose default is too large for small tables: at most one for each so many rows.
    """

    name: str
    description: str
    tasks: tuple[str, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    reads: Literal["columns", "texts", "images", "series"] = "columns"
    from_scratch: tuple[str, ...] = ()
    from_body: Mapping[str, Mapping[str, int | float | str]] | None = field(default=None, hash=False)
    rows_each: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def is_network(self) -> bool:
        """Whether it is trained by the loop of all networks."""
        return {setting.name for setting in TRAINING} <= {setting.name for setting in self.hyperparameters}


_CATEGORIES = Hyperparameter(
    "max_categories",
    "Values of a text column that count each, the most frequent ones; the rest reads as unknown.",
    100,
    1,
    1000,
)
# What gives a linear regression's gradient descent away: who sets one of them does not mean least squares.
_OF_GRADIENT_DESCENT = ("optimizer", "epochs", "learning_rate", "batch_size")
_TASK = Hyperparameter(
    "task",
    "auto takes texts, booleans and two whole numbers as classes, other numbers as values.",
    "auto",
    choices=("auto", "regression", "classification"),
)
_CLASS_WEIGHT = Hyperparameter("class_weight", "Whether rare classes count more.", "none", choices=("none", "balanced"))
_TRAINABLE = Hyperparameter(
    "trainable",
    "What a fine-tune changes: all layers, or the last one alone.",
    "all",
    choices=("all", "last"),
)
_TRAINABLE_TEXT = Hyperparameter(
    "trainable",
    "What changes where there are weights to begin from: all layers, the last one alone, or low-rank adapters beside "
    "the attention's projections (LoRA), which are merged in the end.",
    "all",
    choices=("all", "last", "lora"),
)
_LORA = (
    Hyperparameter("lora_rank", "Of LoRA's adapters.", 8, 1, 1024),
    Hyperparameter("lora_alpha", "By which adapters count: lora_alpha / lora_rank times.", 16, 1, 4096),
    Hyperparameter("lora_dropout", "Share of what adapters see that is left out at each step.", 0.05, 0.0, 0.9),
)
_LABEL_SMOOTHING = Hyperparameter(
    "label_smoothing", "Share of each label that is spread over all classes.", 0.0, 0.0, 0.9
)
_LEAST_EMBEDDING_BATCH = 2
_L2 = Hyperparameter("l2", "Strength of the penalty on squared weights.", 0.0, 0.0, 1e6)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "linear_regression",
            "A number as a weighted sum of the columns, by least squares or gradient descent.",
            ("regression",),
            (
                Hyperparameter(
                    "solver",
                    "How the weights are found; who sets an optimizer or its epochs means gradient descent.",
                    "least_squares",
                    choices=("least_squares", "gradient_descent"),
                ),
                Hyperparameter("optimizer", "Of gradient descent.", "adam", choices=("adam", "sgd")),
                Hyperparameter("epochs", "Passes over the rows, by gradient descent.", 100, 1, 100_000),
                Hyperparameter(
                    "learning_rate",
                    "First step size of gradient descent, falling to 0; 0 picks 0.05 for adam, and for sgd the "
                    "largest step that cannot diverge.",
                    0.0,
                    0.0,
                    10.0,
                ),
                Hyperparameter("batch_size", "Rows a step of gradient descent; 0 for all.", 64, 0, 1_000_000),
                _L2,
                _CATEGORIES,
            ),
        ),
        Family(
            "logistic_regression",
            "A class by a linear model of the log odds.",
            ("binary", "multiclass"),
            (
                Hyperparameter("c", "Inverse strength of the penalty on squared weights.", 1.0, 1e-6, 1e6),
                _CLASS_WEIGHT,
                Hyperparameter("max_iterations", "Most iterations of L-BFGS.", 1000, 1, 100_000),
                _CATEGORIES,
            ),
        ),
        Family(
            "boosted_trees",
            "A number or a class by gradient-boosted trees (LightGBM).",
            ("regression", "binary", "multiclass"),
            (
                _TASK,
                Hyperparameter("n_estimators", "Boosting rounds.", 200, 1, 10_000),
                Hyperparameter("learning_rate", "Weight of each tree.", 0.05, 1e-4, 1.0),
                Hyperparameter("num_leaves", "Most leaves of a tree.", 15, 2, 4096),
                Hyperparameter("max_depth", "Most levels of a tree; -1 for any.", -1, -1, 64),
                Hyperparameter("min_child_samples", "Least rows of a leaf.", 20, 1, 1_000_000),
                Hyperparameter("subsample", "Share of the rows that a tree sees.", 1.0, 0.01, 1.0),
                Hyperparameter("colsample", "Share of the columns that a tree sees.", 1.0, 0.01, 1.0),
                Hyperparameter("l1", "Strength of the penalty on absolute leaf values.", 0.0, 0.0, 1e6),
                Hyperparameter("l2", "Strength of the penalty on squared leaf values.", 0.0, 0.0, 1e6),
                _CLASS_WEIGHT,
                Hyperparameter(
                    "calibration",
                    "Whether a tenth of the rows, set aside, tells how probabilities are to be read.",
                    "off",
                    choices=("off", "on"),
                ),
                Hyperparameter(
                    "early_stopping",
                    "Rounds without gain on a tenth of the rows, set aside, after which boosting stops; 0 for never.",
                    0,
                    0,
                    10_000,
                ),
                _CATEGORIES,
            ),
            # With the default of 20 rows, leaves of a table of 30 rows cannot be parted.
            rows_each={"min_child_samples": 10},
        ),
        Family(
            "mlp",
            "A number or a class by a multi-layer perceptron, for tables with many rows.",
            ("regression", "binary", "multiclass"),
            (
                _TASK,
                Hyperparameter("hidden_layers", "Layers between the columns and the answer.", 2, 1, 16),
                Hyperparameter("hidden_units", "Of each of them.", 128, 1, 8192),
                Hyperparameter("dropout", "Share of the hidden units left out at each step.", 0.1, 0.0, 0.9),
                _CLASS_WEIGHT,
                _TRAINABLE,
                *TRAINING,
                _CATEGORIES,
            ),
        ),
        Family(
            "transformer",
            "A class of a text, a class or number of two texts read together, or an embedding, by a Transformer "
            "encoder (BERT's architecture).",
            ("binary", "multiclass", "regression", "embedding"),
            (
                Hyperparameter(
                    "task",
                    "classification reads one column of texts; pair reads two together, its target texts, booleans or "
                    "two whole numbers as classes, other numbers as values; embedding learns from one column and the "
                    "target, the text that belongs to it; auto takes one column for classification, two for pair.",
                    "auto",
                    choices=("auto", "classification", "pair", "embedding"),
                ),
                Hyperparameter("layers", "Of the encoder.", 2, 1, 48),
                Hyperparameter("hidden_size", "Of each token's vector; a multiple of heads.", 128, 8, 4096),
                Hyperparameter("heads", "Of the attention.", 4, 1, 64),
                Hyperparameter("vocabulary", "Most pieces of text that the tokenizer knows.", 4000, 100, 1_000_000),
                Hyperparameter("max_tokens", "Where longer texts are cut.", 128, 4, 8192),
                Hyperparameter("dropout", "Share of the values left out at each step.", 0.1, 0.0, 0.9),
                Hyperparameter(
                    "attention_dropout", "Share of the attention's weights left out at each step.", 0.0, 0.0, 0.9
                ),
                Hyperparameter(
                    "token_dropout", "Share of the tokens that are read as unknown at each step.", 0.2, 0.0, 0.9
                ),
                Hyperparameter(
                    "token_splitting",
                    "Share of the tokens that are read as the parts they were joined from at each step.",
                    0.4,
                    0.0,
                    0.9,
                ),
                _LABEL_SMOOTHING,
                Hyperparameter(
                    "phrases",
                    "Whether a linear model of tokens and their neighbours, fitted in seconds, speaks beside the "
                    "encoder; a fine-tune leaves it as it is.",
                    "on",
                    choices=("on", "off"),
                ),
                Hyperparameter(
                    "first_vectors",
                    "How tokens' vectors begin: drawn at random, or computed from the tokens they stand beside "
                    "(pointwise mutual information, factored), which takes seconds; not in a fine-tune.",
                    "neighbours",
                    choices=("neighbours", "random"),
                ),
                Hyperparameter(
                    "pretraining_epochs",
                    "Passes over the texts, before labels are learned, in which hidden tokens are guessed (masked "
                    "language modelling); not in a fine-tune.",
                    10,
                    0,
                    10_000,
                ),
                Hyperparameter("pretraining_learning_rate", "Largest step size of these.", 2e-3, 1e-6, 10.0),
                Hyperparameter(
                    "temperature",
                    "By which similarities of embeddings are divided: the smaller, the more the nearest of the texts "
                    "that do not belong together count.",
                    0.05,
                    0.001,
                    10.0,
                ),
                _CLASS_WEIGHT,
                _TRAINABLE_TEXT,
                *_LORA,
                *training(epochs=6, batch_size=32, learning_rate=5e-4),
            ),
            reads="texts",
            from_scratch=(
                "layers",
                "hidden_size",
                "heads",
                "vocabulary",
                "pretraining_epochs",
                "pretraining_learning_rate",
                "first_vectors",
                "phrases",
                "token_splitting",
            ),
            # Much is known already: steps are small, and words stay visible.
            from_body={
                "all": {"learning_rate": 1e-4, "token_dropout": 0.0, "attention_dropout": 0.1},
                "last": {"learning_rate": 1e-2, "token_dropout": 0.0, "attention_dropout": 0.1},
                "lora": {"learning_rate": 1e-3, "token_dropout": 0.0, "attention_dropout": 0.1},
            },
        ),
        Family(
            "cnn",
            "A class by a ResNet that reads one column of images: PNG or JPEG files in base64.",
            ("binary", "multiclass"),
            (
                Hyperparameter("image_size", "Height and width that images are stretched to, pixels.", 32, 8, 512),
                Hyperparameter("channels", "Whether colours count.", "color", choices=("color", "grey")),
                Hyperparameter("width", "Channels of the first stage; each stage has twice as many.", 16, 8, 512),
                Hyperparameter("stages", "Each of half the size of the one before.", 3, 1, 6),
                Hyperparameter("blocks", "Of each stage: two convolutions and a way around them.", 1, 1, 48),
                Hyperparameter("dropout", "Share of the last values left out at each step.", 0.1, 0.0, 0.9),
                Hyperparameter(
                    "augmentation",
                    "How images change at each step: moved by up to an eighth, mirrored, or both.",
                    "shift",
                    choices=("none", "shift", "flip", "shift_and_flip"),
                ),
                Hyperparameter(
                    "corrupt_images",
                    "What a row without a readable image does: fail the job, or be skipped.",
                    "fail",
                    choices=("fail", "skip"),
                ),
                _LABEL_SMOOTHING,
                _CLASS_WEIGHT,
                Hyperparameter(
                    "sync_batchnorm",
                    "Whether batch normalization sees the rows of all workers on Ray, or each worker's its own: slower "
                    "by a third, and a batch gives the same whatever their number.",
                    "off",
                    choices=("off", "on"),
                ),
                _TRAINABLE,
                *training(epochs=20, learning_rate=3e-3),
            ),
            reads="images",
            from_scratch=("image_size", "channels", "width", "stages", "blocks"),
            from_body={"all": {}, "last": {}},
        ),
        Family(
            "rnn",
            "A forecast with intervals, or a class, by a GRU or LSTM that reads series: columns of lists of numbers.",
            ("forecasting", "binary", "multiclass"),
            (
                Hyperparameter("cell", "Of the recurrent layers.", "gru", choices=("gru", "lstm")),
                Hyperparameter("hidden_size", "Of each layer's state.", 48, 1, 4096),
                Hyperparameter("layers", "Recurrent layers, one above the other.", 1, 1, 16),
                Hyperparameter(
                    "bidirectional",
                    "Whether series are read backwards, too; for classification.",
                    "no",
                    choices=("no", "yes"),
                ),
                Hyperparameter(
                    "linear_steps",
                    "Last steps that also go to the answer by a linear model of their own (LSTNet); 0 for none.",
                    24,
                    0,
                    10_000,
                ),
                Hyperparameter(
                    "scaling",
                    "By the mean and spread of each series' own window, or of all rows together.",
                    "window",
                    choices=("window", "global"),
                ),
                Hyperparameter(
                    "season", "Steps after which the series repeats itself; mase compares with that.", 1, 1, 10_000
                ),
                Hyperparameter(
                    "start",
                    "What a forecast is learned as the difference to: its series' mean, or the value a season before.",
                    "mean",
                    choices=("mean", "season"),
                ),
                Hyperparameter("coverage", "Share of the truth that a forecast's intervals hold.", 0.9, 0.01, 0.999),
                Hyperparameter("dropout", "Share of the state's values left out at each step.", 0.1, 0.0, 0.9),
                _CLASS_WEIGHT,
                _TRAINABLE,
                *training(epochs=30, learning_rate=5e-3),
            ),
            reads="series",
        ),
    )
}


def find_family(name: str) -> Family:
    """Return a family.

    Raises:
        InvalidArgument: there is none of that name; the message lists those there are.
    """
    if name not in FAMILIES:
        raise InvalidArgument(
            f"unknown model family {name!r}: expected one of {', '.join(FAMILIES)}", reason="UNKNOWN_FAMILY"
        )
    return FAMILIES[name]


def wants_classes(family: str, settings: Mapping[str, object]) -> bool | None:
    """Return whether a family predicts classes; None where the target's values decide."""
    if family == "linear_regression":
        return False
    if family in ("logistic_regression", "cnn", "rnn"):
        return True
    return {"auto": None, "classification": True, "regression": False}[str(settings["task"])]


def with_smaller_batch(family: str, settings: Mapping[str, object]) -> dict[str, object] | None:
    """Return hyperparameters with batches of half the size, which take less memory; None where nothing is won by that.

    Args:
        family: its name.
        settings: as resolved.
    """
    names = {setting.name for setting in find_family(family).hyperparameters}
    size = settings.get("batch_size")
    # Of networks alone: what a step computes for each row is most of what they hold.
    if not {setting.name for setting in TRAINING} <= names or not isinstance(size, int) or size < 2:
        return None
    return {**settings, "batch_size": size // 2}


def resolve_hyperparameters(
    family: str, given: Mapping[str, object], *, has_body: bool = False, continues: bool = False, rows: int = 0
) -> dict[str, int | float | str | bool]:
    """Return every hyperparameter of a family, those given checked and converted, the others at their defaults.

    Args:
        family: its name.
        given: what is set.
        has_body: whether the fit begins from the body of another; what that brings along is left out.
        continues: whether it goes on from another version: defaults are those of a fit that knows much already.
        rows: of the table, by which defaults are made smaller; 0 where that is not known.

    Raises:
        InvalidArgument: an unknown name, or a value out of range; the message lists what is allowed.
    """
    known = {setting.name: setting for setting in find_family(family).hyperparameters}
    problems = Problems()
    for name in sorted(set(given) - set(known)):
        problems.add(_path(name), unknown_hyperparameter(family, name, known), "UNKNOWN_HYPERPARAMETER")
    for name in known:
        # Settings that come with a body are refused below with any value.
        if name in given and not (has_body and name in find_family(family).from_scratch):
            with problems.collecting(_path(name)):
                check_value(known[name], given[name])
    problems.refuse()
    if family == "linear_regression" and "solver" not in given and not set(given).isdisjoint(_OF_GRADIENT_DESCENT):
        given = {**given, "solver": "gradient_descent"}
    if has_body:
        known, given = _of_body(find_family(family), known, given)
    elif continues:
        given = _with_defaults_of_body(find_family(family), known, given)
    defaults = {name: setting.default for name, setting in known.items()} | _defaults_of_rows(family, known, rows)
    settings = {name: check_value(setting, given.get(name, defaults[name])) for name, setting in known.items()}
    _check_together(settings)
    return settings


def _check_together(settings: Mapping[str, int | float | str | bool]) -> None:
    """Check hyperparameters that depend on each other.

    Raises:
        InvalidArgument: some do not go together.
    """
    problems = Problems()
    if "heads" in settings and int(settings["hidden_size"]) % int(settings["heads"]):
        description = f"hidden_size must be a multiple of heads, got {settings['hidden_size']} and {settings['heads']}"
        problems.add(_path("hidden_size"), description, "BAD_HYPERPARAMETER")
    if settings.get("task") == "embedding" and int(settings["batch_size"]) < _LEAST_EMBEDDING_BATCH:
        description = "batch_size must be at least 2 for embeddings: each text is compared with the others of its batch"
        problems.add(_path("batch_size"), description, "BAD_HYPERPARAMETER")
    problems.refuse()


def _path(name: str) -> str:
    return f"spec.hyperparameters[{name!r}]"


def _defaults_of_rows(family: str, known: Mapping[str, Hyperparameter], rows: int) -> dict[str, int]:
    """Return the defaults that are smaller for a table of some rows."""
    if not rows:
        return {}
    return {
        name: min(int(known[name].default), max(1, rows // each))
        for name, each in find_family(family).rows_each.items()
        if name in known
    }


def _of_body(
    family: Family, known: Mapping[str, Hyperparameter], given: Mapping[str, object]
) -> tuple[dict[str, Hyperparameter], Mapping[str, object]]:
    """Return what can be set where a fit begins from a body, and what is set with other defaults."""
    if family.from_body is None:
        others = ", ".join(name for name, one in FAMILIES.items() if one.from_body is not None)
        raise InvalidArgument(
            f"a fit of {family.name} begins from no base version, one of {others} does: leave base_version out, or "
            "fine-tune",
            reason="BASE_NOT_TAKEN",
        )
    brought = sorted(set(given) & set(family.from_scratch))
    if brought:
        raise InvalidArgument(
            f"{brought[0]} counts only for a fit from scratch: the base version brings its own, leave it out",
            reason="HYPERPARAMETER_OF_BASE",
        )
    left = {name: setting for name, setting in known.items() if name not in family.from_scratch}
    return left, _with_defaults_of_body(family, known, given)


def _with_defaults_of_body(
    family: Family, known: Mapping[str, Hyperparameter], given: Mapping[str, object]
) -> Mapping[str, object]:
    if family.from_body is None:
        return given
    trainable = check_value(known["trainable"], given.get("trainable", known["trainable"].default))
    return {**family.from_body[str(trainable)], **given}
