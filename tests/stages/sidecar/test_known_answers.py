"""Answers whose form is known are LiteLLM's: body, headers and row, whatever their texts and counts are."""

from stages.sidecar.price_comparison import Json, compare

PRICES: Json = {"input_cost_per_token": 1.7e-06, "output_cost_per_token": 9.3e-06}
FORMS = ("openai", "thinker", "bare")
"""What answers have beside texts and counts."""
TIMES = 300
COMPARE = """
import copy, re, time
from llm_proxy.sidecar import answer_bodies, call_log, call_outcome, direct_answers, direct_templates
from llm_proxy.sidecar.answer_template import KnownAnswers
from llm_proxy.sidecar.direct_requests import ProviderAnswer, RequestTemplate
from llm_proxy.sidecar.patches.patch import installed

installed.add("whole_answers")
CALL = direct_templates.DirectCall("chat.completions", "the-group", [], {}, ())
HEADERS = {"x-request-id": "r", "x-ratelimit-limit-tokens": "5", "llm_provider-a": "b", "x-litellm-a": "c"}
NOW = str(int(time.time()))[:-4]
INVENTED = re.compile('chatcmpl-[0-9a-f]{8}-[-0-9a-f]{27}|"created":' + NOW + "[0-9]{4}")
LETTERS = "ab <>\\"\\\\/\\n\\t\\x01\\x7f\\u00e9\\u20ac\\U0001f600%{}:,"
ODD_TEXTS = ["<think>a</think>b", "<", "", " ", "%b %s %%", '","refusal":null}', "NaN 1e999", "x" * 5000]
TOOL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ODD = {
    "content": [None, [{"type": "text", "text": "x"}]], "tool_calls": [[TOOL], []], "refusal": ["SECRET"],
    "own": [{"id": "a", "content": "SECRET"}], "finish_reason": ["eos", None, "tool_calls", "STOP"],
    "logprobs": [{"content": [{"token": "x", "logprob": None}]}], "prompt_tokens": [3.0, "3", 0, 10**30],
    "total_tokens": [None], "cost": [0.5], "usage": [None], "created": [None, 1.5, "1", 0],
    "id": [None, "", 7], "service_tier": ["flex"], "model": [None], "system_fingerprint": ["fp_ollama"],
    "beside": [[float("nan"), float("inf"), 10**400]], "choices": [[], [{"message": {"content": "y"}}] * 2],
}

class Unlearned(KnownAnswers):
    def note_unknown(self, document):
        return False

def text():
    letters = "".join(rng.choices(LETTERS, k=rng.choice([1, 3, 40]))) + "SECRET"
    return rng.choice([letters] * 5 + [rng.choice(ODD_TEXTS)])

def written(form):
    spent = {name: rng.randint(0, 9) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    choice = {"index": 0, "message": {"role": "assistant", "content": text()}, "finish_reason": "stop"}
    document = {"id": "chatcmpl-%032x" % rng.getrandbits(128), "object": "chat.completion", "model": "m",
        "created": rng.randint(1, 2 * 10**9), "choices": [choice], "usage": spent}
    if form != "bare":
        choice["logprobs"], document["service_tier"] = None, "default"
        choice["message"] |= {"refusal": None, "annotations": [], "tool_calls": None}
        document["system_fingerprint"] = rng.choice(["fp_1", "fp_2"])
        spent["prompt_tokens_details"] = {"cached_tokens": rng.randint(0, 2), "audio_tokens": 0}
        spent["completion_tokens_details"] = rng.choice([None, {"reasoning_tokens": rng.randint(0, 2)}])
    if form == "thinker":
        choice["message"]["reasoning_content"] = choice["message"]["reasoning"] = text()
    if rng.random() < 0.15:
        name, values = rng.choice(list(ODD.items()))
        places = [document, choice, choice["message"], spent]
        place = next((one for one in places if name in one), rng.choice(places))
        place[name] = copy.deepcopy(rng.choice(values))
    spaces = (", ", ": ") if form == "bare" else (",", ":")
    raw = json.dumps(document, separators=spaces, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        half = rng.choice(["\\\\ud83d", "\\\\ud83d\\\\ude00", "\\\\/", "\\\\u003cthink>a</think>"])
        raw = raw.replace('"content":"', '"content":"' + half)
    if rng.random() < 0.05:
        name = rng.choice(['"id":', '"prompt_tokens":', '"content":', '"message":'])
        raw = raw.replace(name, name + rng.choice(["1,", '"first",']) + name)
    raw = raw.encode()
    broken = [raw + b" ", raw[:-1], raw.replace(b"a", b"\\xff"), b"\\x01" + raw]
    return raw if rng.random() < 0.97 else rng.choice(broken)

def all_of(raw, pricing, known):
    direct_answers.known_answers = lambda group, deployment: known
    unused = dict.fromkeys(RequestTemplate.__dataclass_fields__)
    given = {"path": "/v1/chat/completions", "pricing": pricing, "constant_headers": ()}
    template = RequestTemplate(**unused | given)
    outcome = call_outcome.CallOutcome()
    outcome.attempts.append(call_outcome.Attempt("the-group", "one", "openai/of-nobody"))
    with call_outcome.outcome_in_context(outcome):
        answer = ProviderAnswer(200, HEADERS, raw, raw, 0.1)
        found = direct_answers.read_answer(answer, template, CALL, outcome)
        if found is None:
            return None
        body = found.body()
        body = body if isinstance(body, bytes) else answer_bodies.render_completion(body, outcome)
        row = call_log.row_of_event(found._event("a", "m"), found.result, found.started_at, found.started_at)
        made = [body.decode(), repr(row[:2] + row[4:]), repr(found.head("i", 0.0))]
        return [INVENTED.sub("", one) for one in made] + [outcome.finish_reason, bool(outcome.states_tokens)]

def tried(*given):
    try:
        return all_of(*given)
    except Exception as error:
        return type(error).__name__

found = {}
for form in asked["models"]:
    pricing, known = asyncio.run(pricing_of(form)), KnownAnswers()
    tally = found[form] = {"known": 0, "others": []}
    for _ in range(asked["times"]):
        raw = written(form)
        tally["known"] += known.find(raw) is not None
        one, other = tried(raw, pricing, known), tried(raw, pricing, Unlearned())
        tally["others"] += [[raw.decode("utf-8", "replace"), one, other]] if one != other else []
    kept = repr([(one.pattern.pattern, one.body) for one in known._templates])
    tally["texts"] = kept.count("SECRET") + kept.count("chatcmpl-")
print(json.dumps(found))
"""


def test_what_is_made_of_an_answer_is_litellm_s() -> None:
    """Of usual answers, most of which are known after a few, and of odd ones; no template holds a text."""
    seen = compare({name: ("openai/of-nobody", dict(PRICES)) for name in FORMS}, TIMES, COMPARE)
    for form in FORMS:
        assert (form, seen[form]["others"], seen[form]["texts"]) == (form, [], 0)
        assert seen[form]["known"] > TIMES / 3
