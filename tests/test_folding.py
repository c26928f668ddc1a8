"""What a user may rely on when texts are compared: which are equal, and what is a part of which."""

import random
import sys
from unicodedata import combining, normalize

import pytest

from api.folding import fold

# Without surrogates, which no text has.
CHARACTERS = [chr(number) for number in range(1, sys.maxunicode + 1) if number >> 11 != 0x1B]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("STRASSE", "straße"),
        ("ΟΔΟΣ", "οδος"),
        ("Черв", "ЧЕРВ"),
        ("café", "cafe\u0301"),
        ("ﬁle", "File"),
        ("\uff21", "a"),
        ("가", "\u1100\u1161"),
    ],
)
def test_texts_that_differ_in_case_or_encoding_are_equal(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"), [("cafe", "café"), ("o", "ø"), ("и", "й"), ("a b", "ab")]
)
def test_other_letters_are_not_equal(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@pytest.mark.slow
def test_every_character_is_equal_to_its_other_cases_and_encodings() -> None:
    for it in CHARACTERS:
        others = {it.lower(), it.casefold(), normalize("NFC", it), normalize("NFKD", it), fold(it)}
        assert {fold(other) for other in others} == {fold(it)}, ascii(it)
        assert fold(it) in fold(f"x{it}y"), ascii(it)


def test_a_part_that_separates_no_letter_from_its_marks_is_a_part_of_the_folded_text() -> None:
    chosen = random.Random(1)  # noqa: S311  # no secret
    odd = [it for it in CHARACTERS if fold(it) != it or combining(it)]
    for _ in range(20_000):
        text = "".join(chosen.choices(odd, k=8))
        cuts = [at for at, it in enumerate(text) if not combining(fold(it)[0])] + [len(text)]
        first, last = sorted(chosen.choices(cuts, k=2))

        assert fold(text[first:last]) in fold(text), ascii(text)
        assert fold(fold(text)) == fold(normalize("NFC", text)) == fold(text), ascii(text)
