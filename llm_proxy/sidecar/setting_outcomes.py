"""What may become of a setting of LiteLLM's: the words of the list in `proxy_settings` and `call_settings`.

Pure. An honoured setting's rule names the test that sees its effect, or says why none on one machine does.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What becomes of a setting."""

    HONOURED = "honoured"
    RENAMED = "honoured under our name"
    REPLACED = "replaced by ours"
    UNAVAILABLE = "not available"


@dataclass(frozen=True, slots=True)
class SettingRule:
    """What becomes of some settings of a section.

    Attributes:
        section: The section of the file; `top` for the file itself.
        names: Their keys.
        outcome: What becomes of them.
        instead: What to use instead, or why there is nothing; of honoured ones where the effect is seen.
        protects: Whether the setting restricts callers or spending.
    """

    section: str
    names: str
    outcome: Outcome
    instead: str
    protects: bool = False

    def matches(self, key: str) -> bool:
        """Whether the rule is a key's."""
        return re.fullmatch("|".join(self.names.split()), key) is not None


TOP, GENERAL, LITELLM, ROUTER = "top", "general_settings", "litellm_settings", "router_settings"
PARAMS, INFO, CACHE, PRICES = "litellm_params", "model_info", "cache_params", "prices"
HONOURED, RENAMED = Outcome.HONOURED, Outcome.RENAMED
REPLACED, UNAVAILABLE = Outcome.REPLACED, Outcome.UNAVAILABLE
NO_DATABASE = "the sidecar keeps no database"
OUR_KEYS = "callers have the gateway's keys (`llm-proxy keys`)"
OUR_BUDGETS = "the gateway's budgets (docs/limits.md)"
OUR_LIMITS = "the gateway's limits (docs/limits.md)"
OUR_ALERTS = "the gateway's notifications (docs/notifications.md)"
OUR_LEDGER = "the usage ledger (docs/records.md)"
OUR_HEALTH = "health comes from live traffic (docs/operations.md); no model is called for it"
NO_ADMIN = "there is no admin interface of LiteLLM's; the gateway has its own (docs/admin.md)"
OUR_PATHS = "the gateway serves the paths of docs/http.md"
NEW_REQUEST = "the gateway makes the sidecar's request anew: no header of a caller reaches LiteLLM"
OWN_STATE = "LiteLLM's own state, no setting of a file"
NOT_THE_CALLERS = "a field of a call, not of a deployment"
STAGE, EFFECT = "tests/stages/sidecar", "tests/stages/sidecar/test_settings_have_effect.py"
NEEDS_ACCOUNT = "not seen here: it needs an account at the service"
PASSED_ON = "not seen here: LiteLLM's own business, passed on as written"
