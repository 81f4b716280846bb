"""What a fit begins from where it does not begin at nothing: the body of a network; a head for its labels is added."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from servicekit.errors import InvalidArgument
from services.training.domain.families.image.model import ImageModel
from services.training.domain.families.model import STATE_FILE, Description
from services.training.domain.families.text.model import TextModel

if TYPE_CHECKING:
    from services.training.domain.families.text.pretrained import TextBody

Body: TypeAlias = "TextBody | ImageModel"


def read_body(family: str, files: Mapping[str, bytes]) -> Body:
    """Return the body that a version's files hold, for a fit of a family.

    Args:
        family: that is to be fitted.
        files: of a model that was trained here, or of a pretrained encoder.

    Raises:
        InvalidArgument: they are of another family, or hold no body that is read here.
    """
    # Here, for it imports torch.
    from services.training.domain.families.text.pretrained import TextBody

    own = Description.read(files).family if STATE_FILE in files else "transformer"
    if own != family:
        raise InvalidArgument(f"the base version is of {own}, not {family}", reason="FAMILY_MISMATCH")
    if family == "cnn":
        return ImageModel.load(files)
    return TextBody.of(TextModel.load(files)) if STATE_FILE in files else TextBody.read(files)
