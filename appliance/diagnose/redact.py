"""Takes secrets and what users sent out of texts and documents, before they leave the host.

Three nets, each for what slips through the others: values that are known to be secret, in
every form that they may be written in; values whose name says that they are; and texts that
look like a secret whatever they are called. What is taken out is counted by kind.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

# Words that make the name of a variable a secret's, wherever in it they stand.
_VARIABLE = re.compile(
    r"(?:^|_)(?:API)?(?:KEYS?|PASS|PWD|CREDS|AUTH|AUTHORIZATION|COOKIES?|SIGNATURE|JWT|BEARER"
    r"|PRIVATE|SAS|DSN)(?:_|\d|$)|TOKEN(?!I[SZ])|SECRET|PASSW|PASSPHRASE|APIKEY|CREDENTIAL"
)
_FOLDERS = frozenset({"PWD", "OLDPWD"})
# Names in any other spelling end with the word: `hf_token`, but not `token_ids`.
_ENDING = re.compile(
    r"(?:^|[_.-])(?:token|secrets?|password|passwd|passphrase|pwd|credentials?|cookies?|auth"
    r"|authorization|apikey|signature|bearer"
    r"|(?:api|access|secret|private|signing|encryption|account|license|client|master|ssh)[_-]?key)$"
)
# Tokens of a text, not of a login.
_OF_TEXT = re.compile(
    r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|stop|next|last|first|per|output|input|prompt|image"
    r"|audio|video|vision|special|think|start|end)_token$"
)
_FILE_NAME = re.compile(r"[_-](?:file|path|dir|folder)$", re.IGNORECASE)
_NO_VALUE = frozenset({"", "none", "null", "true", "false", "empty", "auto", "default", "unset"})
# Kinds of authorization: the secret follows them.
_SCHEMES = frozenset({"bearer", "basic", "digest", "negotiate"})
# Shorter values are words of other texts, too: they are hidden where they stand, not everywhere.
LEARNT_CHARS = 6
MARK = "<redacted:"

_DOUBLE = r'"(?:[^"\\\n]|\\.){0,8000}"?'
_SINGLE = r"'(?:[^'\\\n]|\\.){0,8000}'?"
_NAME = re.compile(
    r"(?<![\w/.-])(?P<name>[A-Za-z_][\w.-]{1,80})(?:\\{0,8}[\"'])?\s{0,3}[:=]\s{0,3}"
)
_VALUE = re.compile(
    rf"\[(?:[^\]\"'\n]|{_DOUBLE}|{_SINGLE}){{0,200}}\]?|{_DOUBLE}|{_SINGLE}"
    r"|\\{1,8}(?P<quote>[\"']).{0,8000}?\\{1,8}(?P=quote)|[^\s\"'\\]+"
)
# All words after the option, up to the next one: an option may take several.
_OPTION = re.compile(r"(?<![\w-])--?(?P<name>[A-Za-z][\w-]{1,60})(?=[=\s\"'\\])")
_WORDS = re.compile(
    r"\\{0,8}[\"'],\s{0,3}\\{0,8}[\"'][^\"'\n]{1,8000}"
    rf"|(?:=|[ \t]{{1,8}})(?:{_DOUBLE}|{_SINGLE}|[^\s-]\S*)(?:[ \t]{{1,8}}[^\s-]\S*){{0,4}}"
)
_TEXT = rf"(?:{_SINGLE}|{_DOUBLE})"


def _rule(kind: str, pattern: str) -> tuple[str, re.Pattern[str]]:
    """Make a rule: the group `kept`, where the pattern has one, stays."""
    return kind, re.compile(pattern, re.MULTILINE)


# What looks like a secret whatever it is called.
_RULES = (
    _rule(
        "private-key",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"
        r"(?:(?s:.{0,20000}?)-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----"
        r"|(?:(?:\s|\\+[nr]){0,9}[A-Za-z0-9+/=]{16,}){0,200})",
    ),
    _rule("media", r"data:[\w.+/-]{1,80}(?:;[\w=.+-]{1,40}){0,4},[\w+/=%-]+"),
    _rule(
        "media",
        r"(?<![\w+/-])(?=[\w+/-]{0,64}[A-Z])(?=[\w+/-]{0,64}[a-z])[\w+/-]{256,}={0,2}",
    ),
    _rule(
        "authorization",
        r"(?i)(?P<kept>\b(?:proxy-)?authorization\\{0,8}[\"']?\s*[:=,]\s*\\{0,8}[\"']?"
        r"(?:(?:bearer|basic|token|digest|negotiate)\s+)?)"
        r"(?!\s*(?:[a-z]+\s+)?<redacted:)[^\s\"',\\]+",
    ),
    _rule("authorization", r"(?i)(?P<kept>\bbearer\s+)(?!\s*<redacted:)[\w.~+/=-]{4,}"),
    _rule(
        "cookie", r"(?i)(?P<kept>\b(?:set-)?cookie\\{0,8}[\"']?\s*:\s*)(?!\s*<redacted:)[^\r\n]+"
    ),
    _rule(
        "url-login",
        r"(?i)(?P<kept>\b[a-z][a-z0-9+.-]{1,20}://)(?!\s*<redacted:)"
        r"(?:[^\s/@\"'<>:]{1,200}:[^\s\"'<>]{0,300}|[^\s/@\"'<>]{1,300})@(?=[\w.\[-])",
    ),
    _rule(
        "token",
        r"\b(?:hf_[A-Za-z0-9]{8,}|ms-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
        r"|sk-[\w-]{12,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{12,}"
        r"|dckr_pat_[\w-]{12,}|npm_[A-Za-z0-9]{20,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}"
        r"|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)",
    ),
)
# What users sent and what the model answered, as the engine's log repeats it.
_SAID = (
    _rule(
        "user-content", rf"(?P<kept>\b(?:negative_)?(?:prompt|output)(?:_text)?\s?[:=]\s?){_TEXT}"
    ),
    _rule("user-content", r"(?P<kept>\b(?:(?:prompt|output)_)?token_ids\s?[:=]\s?)\[[^\]\n]*\]?"),
    _rule(
        "user-content",
        r"(?P<kept>\\{0,8}[\"'](?:content|prompts?|input|text|arguments|reasoning|reasoning_content|url)"
        rf"\\{{0,8}}[\"']\s?:\s?)(?:{_TEXT}|\\{{1,8}}(?P<quote>[\"']).{{0,8000}}?\\{{1,8}}(?P=quote))",
    ),
    _rule("user-content", r"(?P<kept>\binput_value=)(?!\s*<redacted:).*?(?=, input_type=|\]?$)"),
)
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_KEY_LINE = re.compile(r"(?:^|\s)[A-Za-z0-9+/=]{16,}\s*$")


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Tell whether a name says that its value is a secret."""
    if _FILE_NAME.search(name):
        return False
    if name.isupper():
        return name not in _FOLDERS and bool(_VARIABLE.search(name.replace("-", "_")))
    spelt = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return bool(_ENDING.search(spelt)) and not _OF_TEXT.search(spelt)


def _is_value(name: str, value: str) -> bool:
    """Tell whether what stands after a secret's name is a value that could be one."""
    bare = value.strip("\\\"' \t,=")
    if bare.startswith(MARK) or bare.lower() in _NO_VALUE | _SCHEMES:
        return False
    return not (bare.isdigit() and name.upper().endswith("TOKENS"))  # A number of tokens.


def forms(secret: str) -> set[str]:
    """Return the ways in which a text may spell a secret."""
    found = {secret, html.escape(secret), repr(secret)[1:-1], secret.replace("'", "'\"'\"'")}
    for text in (quote(secret, safe=""), quote_plus(secret), quote(secret)):
        found |= {text, re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), text)}
    escaped = secret
    for _ in range(3):
        escaped = json.dumps(escaped)[1:-1]
        found.add(escaped)
    raw = secret.encode()
    found.add(raw.hex())
    for before in range(3):
        # What a base64 text has of the secret, wherever in the encoded text it begins; the
        # letters at its edges depend on its neighbours.
        code = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        core = code[0 if before == 0 else before + 1 :]
        if (before + len(raw)) % 3:
            core = core[:-1]
        if len(core) >= LEARNT_CHARS:
            found |= {core, core.replace("+", "-").replace("/", "_")}
    return found


class Redactor:
    """Knows the secrets of a host, and takes them out of what is to be sent on."""

    def __init__(self) -> None:
        """Know nothing yet; `learn` tells of secrets."""
        self.counts: Counter[str] = Counter()
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, secret: str | None, *, certain: bool = False) -> None:
        """Take a value for a secret from now on. `certain`: even if it is a short one."""
        value = (secret or "").strip()
        if not value or (not certain and (len(value) < LEARNT_CHARS or value[0] in "/~<")):
            return
        if value not in self._known:
            self._known.add(value)
            self._pattern = None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        text = self._literals(text)
        for kind, pattern in _RULES:
            text = self._replace(kind, pattern, text)
        text = self._headless_keys(text)
        return self._named(_NAME, _VALUE, self._named(_OPTION, _WORDS, text))

    def log(self, text: str) -> str:
        """Return a log without secrets, and without what users sent and were answered."""
        text = self._literals(text)
        for kind, pattern in _SAID:
            text = self._replace(kind, pattern, text)
        return self.text(text)

    def document(self, value: Any, name: str = "") -> Any:
        """Return a JSON value without secrets. `name` is the one that it has."""
        if name and is_secret(name):
            return self._hidden(name, value)
        if isinstance(value, dict):
            return self._mapping(value)
        if isinstance(value, (list, tuple)):
            return self._sequence(list(value))
        return self._string(value) if isinstance(value, str) else value

    def _mapping(self, value: dict[Any, Any]) -> dict[str, Any]:
        named = value.get("name", value.get("key"))
        if isinstance(named, str) and "value" in value and is_secret(named):
            value = {**value, "value": self._hidden(named, value["value"])}
        return {self.text(str(key)): self.document(item, str(key)) for key, item in value.items()}

    def _sequence(self, items: list[Any]) -> list[Any]:
        """Redact a list: words of a command, variables, or a name and its value."""
        result: list[Any] = []
        name = ""
        for item in items:
            option = isinstance(item, str) and item.startswith("-")
            result.append(self.document(item, "" if option else name))
            if option:  # All words up to the next option are its own.
                name = "" if "=" in item else item.lstrip("-")
            elif len(items) == 2 and not result[1:] and isinstance(item, str):  # noqa: PLR2004
                name = item
        return result

    def _string(self, value: str) -> str:
        if value[:1] in ("{", "["):
            try:
                inner = json.loads(value)
            except (ValueError, RecursionError):
                return self.text(value)
            return json.dumps(self.document(inner), separators=(",", ":"), ensure_ascii=False)
        name, separator, rest = value.partition("=")
        if separator and re.fullmatch(r"-{0,2}[\w.-]+", name) and is_secret(name.lstrip("-")):
            return f"{self.text(name)}={self._hidden(name.lstrip('-'), rest)}"
        return self.text(value)

    def _hidden(self, name: str, value: Any) -> Any:
        """Return a secret's value redacted: all texts within it."""
        if isinstance(value, dict):
            return {self.text(str(key)): self._hidden(name, item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._hidden(name, item) for item in value]
        if value is None or isinstance(value, bool):
            return value
        text = str(value)
        if not _is_value(name, text):
            return value
        self.learn(text)
        self.counts["named-secret"] += 1
        return f"{MARK}named-secret>"

    def _named(self, names: re.Pattern[str], values: re.Pattern[str], text: str) -> str:
        """Hide the values that stand after names of secrets."""
        parts, done = [], 0
        for found in names.finditer(text):
            if found.start() < done or not is_secret(found["name"]):
                continue
            value = values.match(text, found.end())
            if value is None or not _is_value(found["name"], value[0]):
                continue
            edge = value.start() + len(value[0]) - len(value[0].lstrip("= \t\\\"',"))
            parts += [text[done:edge], f"{MARK}named-secret>"]
            done = value.end()
            self.counts["named-secret"] += 1
        return "".join([*parts, text[done:]])

    def _replace(self, kind: str, pattern: re.Pattern[str], text: str) -> str:
        kept = r"\g<kept>" if "kept" in pattern.groupindex else ""
        text, count = pattern.subn(f"{kept}{MARK}{kind}>", text)
        self.counts[kind] += count
        return text

    def _headless_keys(self, text: str) -> str:
        """Take out the rest of a private key whose beginning was cut off."""
        while found := _KEY_END.search(text):
            lines = text[: found.start()].split("\n")[:-1]
            while lines and _KEY_LINE.search(lines[-1]):
                lines.pop()
            self.counts["private-key"] += 1
            head = "".join(f"{line}\n" for line in lines)
            text = f"{head}{MARK}private-key>{text[found.end() :]}"
        return text

    def _literals(self, text: str) -> str:
        if not self._known:
            return text
        if self._pattern is None:
            spelt: set[str] = set()
            for secret in self._known:
                spelt |= forms(secret)
            longest = sorted(spelt, key=len, reverse=True)
            self._pattern = re.compile(
                "|".join(
                    re.escape(form)
                    if len(form) >= LEARNT_CHARS
                    else rf"(?<!\w){re.escape(form)}(?!\w)"
                    for form in longest
                )
            )
        text, count = self._pattern.subn(f"{MARK}known-secret>", text)
        self.counts["known-secret"] += count
        return text
