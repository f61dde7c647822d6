"""Key-like strings out of any text that is written down.

Pure. Invariants: what is replaced keeps at most its first characters, enough to tell keys apart; a second
net only: prompts, answers and credentials are not handed to logs in the first place.
"""

import re
from collections.abc import Iterable

_KEY_LIKE = re.compile(
    r"""(?P<kept>
          \b(?:Bearer|Basic)\s+                              # an Authorization header
        | ://[^\s:/@]{0,64}:                                 # a password in a URL
        | (?i:\b(?:api[_-]?key|secret|password|authorization|x-internal-auth)\\?["']?\s*[:=]\s*\\?["']?
          (?:Bearer\s+|Basic\s+)?)
        | \b(?:sk|pk|rk|gsk|csk|xai|pa|hf|ghp|glpat|AIza|AKIA|llmp)[-_]?(?=[A-Za-z0-9_-]{12})
        | \beyJ(?=[A-Za-z0-9_-]{8,}\.)                       # a JSON web token
        )(?P<gone>[^\s"'<>&,;@\\]{6,})""",
    re.VERBOSE,
)
_BLANK = "[redacted]"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with every key-like part blanked, and every one of `secrets` wherever it stands."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, _BLANK)
    return _KEY_LIKE.sub(lambda found: found["kept"] + _BLANK, text)
