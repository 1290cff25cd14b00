"""An artifact made again from what its manifest says, and compared with what it was.

::

    reproduction = reproduce(store, artifact, ArtifactStore("elsewhere"))
    reproduction.same

Outside of the flow, above the chains: it calls their functions. What is made lies in a store of its own; nothing in the
store of the artifact is written, but for replies of chat models, which are kept there so that none is asked for twice.
"""

from sae_core.reproduce.plans import CannotReproduce
from sae_core.reproduce.remaking import Remade, Reproduction, reproduce
from sae_core.reproduce.stages import STAGES

__all__ = ["STAGES", "CannotReproduce", "Remade", "Reproduction", "reproduce"]
