"""Folding: the form of a text that leaves out differences of case and encoding."""

from unicodedata import normalize


def fold(text: str) -> str:
    """Return the text in the form that equal texts share: `Straße` and `STRASSE`, `É` and `é`.

    Such texts are equal by Unicode's compatibility caseless matching
    (https://www.unicode.org/versions/latest/, D146). NFKD splits letters from their marks, where
    NFKC would join them. So a part of a text, when it is folded, is a part of the folded text too,
    unless it separates a letter from its marks.
    """
    return normalize("NFKD", normalize("NFKD", text).casefold())
