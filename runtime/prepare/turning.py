"""Whether keys can be turned before a call knows what else it is given. (Asking loads no torch.)"""

from __future__ import annotations

from attnspec.spec import contents
from attnspec.spec.spec import Spec


def keys_turn_once(spec: Spec) -> bool:
    """Whether a key turns alike in every call: by its position alone, whatever the lengths, the inputs, the queries.

    xPos turns both sides around a centre that lies between them.
    """
    return all(
        rotation.constant
        and rotation.kind != "xpos"
        and contents.free(rotation.k) <= {"k"}
        and contents.varies(rotation.k) <= {"k"}
        for rotation in spec.rotations
    )
