"""A key and the keys below it, in statements: whose calls the holder of a key sees, and its budgets count.

Invariants: rows of child keys that ended stay, so a family is known for as long as its calls are. Nothing of
a sibling or of a key above is in it.
"""

from collections.abc import Iterable


def of_family(column: str, key: str) -> str:
    """Returns the condition that a column has a key's id or that of a key below it.

    Args:
        column: Of keys' ids.
        key: The place of the argument that is the key's id: `$2`.
    """
    below = f"k.ancestors @> ARRAY[{key}::text] AND k.ancestors <> '{{}}'"  # the index is of such rows
    ids = f"SELECT {key}::text UNION ALL SELECT k.key_id FROM api_keys AS k WHERE {below}"  # noqa: S608 -- a place
    return f"{column} = ANY(ARRAY({ids}))"


OF_VIEWER = f"($2::text IS NULL OR {of_family('key_id', '$2')}) AND ($3::text IS NULL OR tenant = $3)"
"""The condition for rows that a viewer may see: the only key is `$2`, the only tenant `$3`; NULL for any."""


def is_in_family(key_id: str, of: str, ancestors: Iterable[str] | None) -> bool:
    """Whether the key `of`, which has these keys above it, is a key or below it."""
    return key_id == of or key_id in (ancestors or ())
