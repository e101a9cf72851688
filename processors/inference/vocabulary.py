"""
`[vocabulary]` of streams.toml: what stands for {appointment} in a pattern.

Pure text, from names to what they mean; whether that is a regular expression is for actions.py to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from streams.errors import ConfigurationError
from streams.topology import WORD, suggest

# What follows a backslash is itself: \{ a brace, \p{Lu} a letter of a kind.
_NAMED = re.compile(rf"\\[pPN]\{{[^}}]*\}}|\\.|\{{(?P<name>{WORD.pattern})\}}", re.DOTALL)


class Vocabulary:
    """Words by their names; a word may name others."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = words
        self._whole: dict[str, str] = {}

    def expand(self, text: str, where: str, *, within: tuple[str, ...] = ()) -> str:
        """
        A pattern without names.

        Args:
            where: it stands, for errors: `actions.book.patterns`.
            within: words that are being expanded.

        Raises:
            ConfigurationError: it names a word that there is none of, or one that names itself.
        """

        def meaning(found: re.Match[str]) -> str:
            name = found["name"]
            if name is None:
                return found[0]
            if name in within:
                circle = " → ".join((*within[within.index(name) :], name))
                raise ConfigurationError(f"streams.toml: {where} = {text!r} has a word that names itself: {circle}")
            if name not in self._words:
                why = f"names {name!r}, which is no word of [vocabulary]{suggest(name, self._words)}"
                raise ConfigurationError(f"streams.toml: {where} = {text!r} {why}; a brace itself is \\{{")
            if name not in self._whole:
                self._whole[name] = self.expand(self._words[name], f"vocabulary.{name}", within=(*within, name))
            return f"(?:{self._whole[name]})"

        return _NAMED.sub(meaning, text)
