"""PromptFile: the setting that names what a language model is asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from rankpipe.models.prompt import known_prompt
from rankpipe.stage import Reference

PromptFile = Annotated[Reference, AfterValidator(known_prompt)]
"""A file with a prompt, or the name of one that comes with rankpipe."""
