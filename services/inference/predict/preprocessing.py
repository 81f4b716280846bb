"""What stands beside a model and says how its inputs are made of texts or images: declarative files, never code."""

from collections.abc import Mapping

from servicekit.errors import FailedPrecondition
from services.inference.serving.model import InputSpec, Preprocessing

TOKENIZER_FILE = "tokenizer.json"
IMAGE_FILE = "image.json"
# Most bytes of each.
PREPROCESSING_FILES = {TOKENIZER_FILE: 64 << 20, IMAGE_FILE: 64 << 10}


def load_preprocessing(files: Mapping[str, bytes], inputs: Mapping[str, InputSpec]) -> Preprocessing | None:
    """Return what makes a model's inputs of texts or images; None where no file beside it does. Blocks.

    Args:
        files: those of `PREPROCESSING_FILES` that the version has.
        inputs: the model's.

    Raises:
        FailedPrecondition: a file cannot be interpreted, or does not suit the model.
    """
    if len(files) > 1:
        raise FailedPrecondition(
            f"a version has either {TOKENIZER_FILE} or {IMAGE_FILE}, not both", reason="PREPROCESSING_UNREADABLE"
        )
    # Only here: a worker whose models are of columns loads neither library.
    if TOKENIZER_FILE in files:
        from services.inference.predict.texts import TextReader

        return TextReader.load(files[TOKENIZER_FILE], inputs)
    if IMAGE_FILE in files:
        from services.inference.predict.images import ImageReader

        return ImageReader.load(files[IMAGE_FILE], inputs)
    return None
