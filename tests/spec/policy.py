"""What a policy says to a change of a tag: docs/SPEC.md, appendix B. Part of verify.py.

Nothing is handed to Python's `re`: patterns and regular expressions become machines of states that are stepped through character by
character, so no expression runs away, and none means here what Python rather than the specification makes of it.
"""
from __future__ import annotations

import re
import string
import tomllib
from functools import lru_cache
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Optional, Tuple

MAX_TEXT, MAX_RULES, MAX_PATTERN, MAX_ID, MAX_NESTING, MAX_REPETITIONS = 60000, 1000, 512, 128, 16, 1000
MAX_REGEX, MAX_REGEXES, MAX_GLOB, MAX_GLOBS = 1000, 2000, 1000, 60000
CREATE, OVERWRITE, RECREATE, DELETE = CHANGES = ("create", "overwrite", "recreate", "delete")
REFERRER = re.compile(r"(sha256|sha512)-([0-9a-f]{64})(|\.sig|\.att|\.sbom)")
ASCII = frozenset(map(chr, range(128)))
DIGITS = frozenset(string.digits)
WORDS = frozenset(string.ascii_letters + string.digits + "_")
GRAPH = frozenset(map(chr, range(0x21, 0x7f)))
CLASSES = {
    "alnum": frozenset(string.ascii_letters + string.digits), "alpha": frozenset(string.ascii_letters), "ascii": ASCII,
    "blank": frozenset(" \t"), "cntrl": ASCII - GRAPH - {" "}, "digit": DIGITS, "graph": GRAPH,
    "lower": frozenset(string.ascii_lowercase), "print": GRAPH | {" "}, "punct": frozenset(string.punctuation),
    "space": frozenset(" \t\n\v\f\r"), "upper": frozenset(string.ascii_uppercase), "word": WORDS, "xdigit": frozenset(string.hexdigits)}
PERL = {"d": DIGITS, "s": frozenset(" \t\n\f\r"), "w": WORDS}
CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
PLACES = {"^": "begin", r"\A": "begin", "$": "end", r"\z": "end", r"\b": "border", r"\B": "no border"}


class PolicyRefused(Exception):
    """The text is not that of a policy."""


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise PolicyRefused(reason)


def check_characters(text: str) -> None:
    require(1 <= len(text) <= MAX_PATTERN, f"{text!r} is empty or above {MAX_PATTERN} bytes")
    require(all("!" <= c <= "~" for c in text), f"{text!r} has a character that no name has")


def linked_digest(tag: str) -> Optional[str]:
    """The digest that a referrer tag hangs on, where its name has all of it."""
    form = REFERRER.fullmatch(tag)
    return f"sha256:{form.group(2)}" if form and form.group(1) == "sha256" else None


def not_slash(c: str) -> bool:
    return c != "/"


class Glob:
    """A pattern as a machine of states, each with its moves: (test of a character, or None for a free one; next state)."""

    def __init__(self, pattern: str):
        check_characters(pattern)
        self.pattern, self.at, self.depth = pattern, 0, 0
        self.count, self.characters = 1, 0  # of what it stands for, as far as it is read
        self.moves: List[List[Tuple[Optional[Callable[[str], bool]], int]]] = [[]]
        self.final = self._sequence(0, nested=False)
        self.size = self.count + self.characters
        require(self.size <= MAX_GLOB, f"{pattern!r} is too large once its alternatives are written out")

    def matches(self, text: str) -> bool:
        states = self._closure({0})
        for c in text:
            states = self._closure({after for s in states for test, after in self.moves[s] if test and test(c)})
        return self.final in states

    def _closure(self, states: set) -> set:
        todo = list(states)
        while todo:
            for test, after in self.moves[todo.pop()]:
                if test is None and after not in states:
                    states.add(after)
                    todo.append(after)
        return states

    def _move(self, state: int, test: Optional[Callable], after: Optional[int] = None) -> int:
        if after is None:
            after = len(self.moves)
            self.moves.append([])
        self.moves[state].append((test, after))
        return after

    def _next(self) -> str:
        require(self.at < len(self.pattern), f"the pattern {self.pattern!r} breaks off")
        self.at += 1
        return self.pattern[self.at - 1]

    def _sequence(self, state: int, nested: bool) -> int:
        p = self.pattern
        while self.at < len(p) and not (nested and p[self.at] in ",}"):
            whole = (p.startswith("**", self.at) and (self.at == 0 or p[self.at - 1] == "/")
                     and p[self.at + 2:self.at + 3] in ("", "/"))
            c = self._next()
            if c != "{":
                self.characters += self.count * (1 if not whole else 3 if self.at + 1 < len(p) else 2)
            if whole and self.at + 1 < len(p):  # `**/`: any number of components, each with its slash
                self.at += 2
                state = self._move(state, None)
                component = self._move(state, not_slash)
                self._move(component, not_slash, component)
                self._move(component, "/".__eq__, state)
            elif whole:  # at the end: at least one
                self.at += 1
                state = self._move(state, not_slash)
                self._move(state, lambda c: True, state)
            elif c == "*":
                state = self._move(state, None)
                self._move(state, not_slash, state)
            elif c == "?":
                state = self._move(state, not_slash)
            elif c == "[":
                state = self._move(state, self._set())
            elif c == "{":
                self.depth += 1
                require(self.depth <= MAX_NESTING, f"{p!r} has alternatives nested too deep")
                begin, state = state, self._move(state, None)
                self.moves[begin].pop()  # `state` is where the alternatives meet
                filled = False
                before, together = (self.count, self.characters), (0, 0)
                while True:
                    self.count, self.characters = 1, 0
                    first, at = self._move(begin, None), self.at
                    last = self._sequence(first, nested=True)
                    if self.at == at:
                        self.moves[begin].pop()  # an empty alternative is left out
                    else:
                        filled = True
                        together = together[0] + self.count, together[1] + self.characters
                        self._move(last, None, state)
                    if self._next() == "}":
                        break
                if not filled:
                    self._move(begin, None, state)
                    together = 1, 0
                self.count, self.characters = before[0] * together[0], before[1] * together[0] + before[0] * together[1]
                self.depth -= 1
            else:
                require(c not in "}", f"a }} without {{ in {p!r}")
                if c == "\\":
                    c = self._next()
                    require(not c.isalnum(), f"{p!r} escapes a letter or a digit")
                state = self._move(state, c.__eq__)
        return state

    def _set(self) -> Callable[[str], bool]:
        negated = self.pattern.startswith(("!", "^"), self.at)
        self.at += negated
        ranges: List[Tuple[str, str]] = []
        while True:
            c = self._next()
            if c == "]" and ranges:
                break
            low = high = c
            if self.pattern.startswith("-", self.at) and self.pattern[self.at + 1:self.at + 2] not in ("", "]"):
                self.at += 1
                high = self._next()
                require(low <= high, f"a range is the wrong way round in {self.pattern!r}")
            ranges.append((low, high))
        return lambda c: any(low <= c <= high for low, high in ranges) != negated


class Regex:
    """A regular expression, as a machine of states. Its moves are sets of characters, or places in the name: the ends, borders of words."""

    def __init__(self, text: str):
        check_characters(text)
        self.text, self.at, self.depth = text, 0, 0
        self.folds, self.quotes = False, False  # after `(?i)`; between `\Q` and `\E`
        tree, self.size = self._alternatives()
        require(self.at == len(text), f"{text!r} has a ) that closes nothing")
        self.moves: List[List[Tuple[Any, int]]] = [[]]
        self.final = self._build(tree, 0)

    @lru_cache(maxsize=1 << 16)
    def matches(self, name: str) -> bool:
        """Whether there is a match anywhere in the name."""
        states: set = set()
        for at in range(len(name) + 1):
            border = (at > 0 and name[at - 1] in WORDS) != (at < len(name) and name[at] in WORDS)
            here = {None, "border" if border else "no border"}
            here |= ({"begin"} if at == 0 else set()) | ({"end"} if at == len(name) else set())
            states = self._closure(states | {0}, here)
            if self.final in states:
                return True
            if at < len(name):
                moves = (move for state in states for move in self.moves[state])
                states = {after for test, after in moves if isinstance(test, frozenset) and name[at] in test}
        return False

    def _closure(self, states: set, here: set) -> set:
        states, todo = set(states), list(states)
        while todo:
            for test, after in self.moves[todo.pop()]:
                if not isinstance(test, frozenset) and test in here and after not in states:
                    states.add(after)
                    todo.append(after)
        return states

    # A tree is a set of characters, a place, or a tuple: ("or", trees), ("then", trees), ("times", tree, least, most or None).

    def _peek(self) -> str:
        return self.text[self.at:self.at + 1]

    def _take(self) -> str:
        require(self.at < len(self.text), f"{self.text!r} breaks off")
        self.at += 1
        return self.text[self.at - 1]

    def _skip(self, text: str) -> bool:
        found = self.text.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def _form(self, form: str) -> Optional[re.Match]:
        found = re.compile(form).match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def _alternatives(self) -> Tuple[Any, int]:
        branches: List[List[Any]] = [[]]
        size = 1
        while self._peek() and (self.quotes or self._peek() != ")"):
            if not self.quotes and self._skip("|"):
                branches.append([])
                size += 1
            else:
                piece, its_size = self._piece()
                size += its_size
                if its_size:
                    branches[-1].append(piece)
            require(size <= MAX_REGEX, f"{self.text!r} is too large once its repetitions are written out")
        return ("or", [("then", pieces) for pieces in branches]), size

    def _piece(self) -> Tuple[Any, int]:
        tree, size = self._atom()
        counts = self._repetition() if size else None
        if counts is None:
            return tree, size
        self._skip("?")  # as little as possible: no matter for whether there is a match
        require(self._repetition() is None, f"{self.text!r} repeats a repetition")
        least, most = counts
        return ("times", tree, least, most), size * max(1, least + 1 if most is None else most)

    def _repetition(self) -> Optional[Tuple[int, Optional[int]]]:
        if self.quotes:
            return None
        sign = self._form(r"[*+?]")
        if sign:
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign.group()]
        form = self._form(r"\{(0|[1-9][0-9]*)(,(0|[1-9][0-9]*)?)?\}")
        if form is None:
            return None
        least = int(form.group(1))
        most = least if form.group(2) is None else None if form.group(3) is None else int(form.group(3))
        require(max(least, most or 0) <= MAX_REPETITIONS, f"{self.text!r} repeats too often")
        require(most is None or least <= most, f"{self.text!r} asks for more than it allows")
        return least, most

    def _atom(self) -> Tuple[Any, int]:
        """With its size, which is 0 for what matches nothing itself and can't be repeated."""
        require(self._repetition() is None, f"{self.text!r} repeats nothing")
        if self.quotes:
            c = self._take()
            self.quotes = not self._skip(r"\E")
            return self._fold(frozenset(c)), 1
        place = self._form(r"[$^]|\\[AzbB]")
        if place:
            return PLACES[place.group()], 1
        if self._skip("("):
            return self._group()
        if self._skip(r"\Q"):
            self.quotes = not self._skip(r"\E")
            return ("then", []), 0
        if self._skip("."):
            return ASCII, 1
        if self._skip("["):
            return self._set(), 1
        return self._class() or self._fold(frozenset(self._character())), 1

    def _group(self) -> Tuple[Any, int]:
        outside = folds = self.folds
        if self._skip("?") and not self._form(r"P?<[0-9A-Za-z_]+>"):
            flags = self._form(r"([imsU]*)(?:-([imsU]+))?(?=[:)])")
            require(flags is not None, f"{self.text!r} has a group with an option")
            folds = (folds or "i" in flags.group(1)) and "i" not in (flags.group(2) or "")
            if self._take() == ")":
                self.folds = folds
                return ("then", []), 0
        self.depth += 1
        require(self.depth <= MAX_NESTING, f"{self.text!r} has groups nested too deep")
        self.folds = folds
        tree, size = self._alternatives()
        require(self._skip(")"), f"{self.text!r} has a group that does not end")
        self.folds = outside
        self.depth -= 1
        return tree, size

    def _fold(self, members: FrozenSet[str]) -> FrozenSet[str]:
        return frozenset(other for c in members for other in (c.upper(), c.lower())) if self.folds else members

    def _class(self) -> Optional[FrozenSet[str]]:
        form = self._form(r"\\[dDsSwW]")
        if form is None:
            return None
        letter = form.group()[1]
        return PERL[letter] if letter in PERL else ASCII - PERL[letter.lower()]

    def _character(self) -> str:
        c = self._take()
        if c != "\\":
            return c
        number = self._form(r"0[0-7]{0,2}|[1-7][0-7]{1,2}|x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]+\}")
        if number:
            digits = number.group()
            code = int(digits.strip("x{}"), 16 if digits[0] == "x" else 8)
            require(code < 128, f"{self.text!r} has a character beyond ASCII")
            return chr(code)
        c = self._take()
        require(c in CONTROL or c in string.punctuation, f"{self.text!r} has \\{c}")
        return CONTROL.get(c, c)

    def _set(self) -> FrozenSet[str]:
        negated = self._skip("^")
        members: FrozenSet[str] = frozenset()
        first = True
        while first or not self._skip("]"):
            first = False
            named = self._form(r"\[:(\^?)(.*?):\]")
            if named:
                require(named.group(2) in CLASSES, f"{self.text!r} has a class that RE2 does not know")
                class_ = self._fold(CLASSES[named.group(2)])
                members |= ASCII - class_ if named.group(1) else class_
                continue
            class_ = self._class()
            if class_ is not None:
                members |= class_
                continue
            low = high = self._character()
            if self.text[self.at:self.at + 1] == "-" and self.text[self.at + 1:self.at + 2] not in ("", "]"):
                self.at += 1
                high = self._character()
            require(low <= high, f"{self.text!r} has a range that falls")
            members |= self._fold(frozenset(map(chr, range(ord(low), ord(high) + 1))))
        return ASCII - members if negated else members

    def _new(self) -> int:
        self.moves.append([])
        return len(self.moves) - 1

    def _build(self, tree: Any, state: int) -> int:
        """Adds the machine of a tree behind a state, and returns the state in which it has matched."""
        if not isinstance(tree, tuple):
            end = self._new()
            self.moves[state].append((tree, end))
            return end
        if tree[0] == "then":
            for part in tree[1]:
                state = self._build(part, state)
            return state
        if tree[0] == "or":
            end = self._new()
            for part in tree[1]:
                begin = self._new()
                self.moves[state].append((None, begin))
                self.moves[self._build(part, begin)].append((None, end))
            return end
        _, part, least, most = tree
        for _ in range(least):
            state = self._build(part, state)
        end = self._new()
        for _ in range((most or 0) - least):
            self.moves[state].append((None, end))
            state = self._build(part, state)
        if most is None:
            begin = self._new()
            self.moves[state].append((None, begin))
            self.moves[self._build(part, begin)].append((None, begin))
            state = begin
        self.moves[state].append((None, end))
        return end


@lru_cache(maxsize=None)
def regex(text: str) -> Regex:
    """The same text is the same machine: a policy may have it in thousands of places."""
    return Regex(text)


class Names:
    """Which names of one kind a rule means."""

    def __init__(self, rule: Dict[str, Any], field: str, has_regexes: bool = True):
        kinds: List[Tuple[str, Callable]] = [(field, Glob), (f"{field}_excluding", Glob)]
        if has_regexes:
            kinds += [(f"{field}_regex", regex), (f"{field}_excluding_regex", regex)]
        lists = {name: [kind(text) for text in rule.get(name, [])] for name, kind in kinds}
        self.including = lists[field] + lists.get(f"{field}_regex", [])
        self.excluding = lists[f"{field}_excluding"] + lists.get(f"{field}_excluding_regex", [])

    def has(self, name: str) -> bool:
        return (not self.including or any(one.matches(name) for one in self.including)) \
            and not any(one.matches(name) for one in self.excluding)

    def glob_size(self) -> int:
        return sum(one.size for one in self.including + self.excluding if isinstance(one, Glob))

    def regexes(self) -> Dict[str, int]:
        return {one.text: one.size for one in self.including + self.excluding if isinstance(one, Regex)}


LISTS = [f"{field}{which}" for field, kinds in (("registries", ("", "_excluding")),
                                               ("repositories", ("", "_regex", "_excluding", "_excluding_regex")),
                                               ("tags", ("", "_regex", "_excluding", "_excluding_regex")))
         for which in kinds] + ["forbid", "allow", "promoted_from"]


class Rule:
    def __init__(self, rule: Any):
        require(isinstance(rule, dict), "a rule is no table")
        require(not set(rule) - {"id", *LISTS}, f"an unknown key in {sorted(rule)}")
        self.id = rule.get("id")
        require(isinstance(self.id, str) and 1 <= len(self.id) <= MAX_ID and all("!" <= c <= "~" for c in self.id),
                f"{self.id!r} is no id")
        for name in LISTS:
            found = rule.get(name, ["any"])
            require(isinstance(found, list) and found and all(isinstance(text, str) for text in found),
                    f"{name} is no list of strings, or empty")
        says = [name for name in ("forbid", "allow", "promoted_from") if name in rule]
        require(len(says) <= 1, f"rule {self.id} says several things")
        self.says = says[0] if says else "forbid"
        self.changes = rule.get(self.says, [OVERWRITE, RECREATE, DELETE])
        self.sources = [Glob(text) for text in rule.get("promoted_from", [])]
        require(self.says == "promoted_from" or not set(self.changes) - set(CHANGES), f"{self.changes} has no such change")
        self.registries = Names(rule, "registries", has_regexes=False)
        self.repositories, self.tags = Names(rule, "repositories"), Names(rule, "tags")

    def is_about(self, registry: str, repository: str, tag: str) -> bool:
        return self.tags.has(tag) and self.repositories.has(repository) and self.registries.has(registry)


class Policy:
    def __init__(self, text: str, exempt_referrers: bool, rules: List[Rule]):
        self.text, self.exempt_referrers, self.rules = text, exempt_referrers, rules
        self.known: Dict[Tuple[str, str, str], List[Rule]] = {}

    def about(self, tag: Tuple[str, str, str]) -> List[Rule]:
        if tag not in self.known:
            exempt = self.exempt_referrers and REFERRER.fullmatch(tag[2])
            self.known[tag] = [] if exempt else [rule for rule in self.rules if rule.is_about(*tag)]
        return self.known[tag]

    def forbids(self, tag: Tuple[str, str, str], change: str, carried: Iterable[str]) -> Optional[Tuple[str, bool]]:
        """The rule that forbids the change, and whether for want of a promotion. `carried` has the tags of the repository that were
        ever bound to the digest that the tag is to be bound to."""
        for rule in self.about(tag):
            if rule.says == "promoted_from":
                if change != DELETE and not any(source.matches(other) for other in carried for source in rule.sources):
                    return rule.id, True
            elif change in rule.changes:
                return (rule.id, False) if rule.says == "forbid" else None
        return None


def check_toml_1_0(text: str) -> None:
    """Refuses what TOML 1.1 has and 1.0 has not: inline tables altogether, and two escapes."""
    token = re.compile(r'''(?s)"""(?:\\.|[^\\])*?"""+|\'{3}.*?\'{3}\'*|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|\#[^\n]*|\{''')
    for found in token.finditer(text):
        part = found.group()
        require(part != "{", "an inline table")
        escapes = re.findall(r"(?s)\\(.)", part) if part.startswith('"') else []
        require(not set(escapes) & {"e", "x"}, "an escape that TOML 1.0 does not know")


@lru_cache(maxsize=256)
def read_policy(text: str) -> Policy:
    require(len(text.encode()) <= MAX_TEXT, f"above {MAX_TEXT} bytes")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyRefused(f"not TOML: {error}") from None
    check_toml_1_0(text)
    require(not set(document) - {"exempt_referrers", "rule"}, f"an unknown key in {sorted(document)}")
    exempt, rules = document.get("exempt_referrers", True), document.get("rule", [])
    require(isinstance(exempt, bool), "exempt_referrers is no boolean")
    require(isinstance(rules, list) and len(rules) <= MAX_RULES, f"rule is no list, or has more than {MAX_RULES}")
    rules = [Rule(rule) for rule in rules]
    require(len({rule.id for rule in rules}) == len(rules), "an id that is there twice")
    globs = sum(names.glob_size() for rule in rules for names in (rule.registries, rule.repositories, rule.tags))
    globs += sum(source.size for rule in rules for source in rule.sources)
    require(globs <= MAX_GLOBS, "patterns too large together")
    repositories: Dict[str, int] = {}
    tags: Dict[str, int] = {}
    for rule in rules:
        repositories.update(rule.repositories.regexes())
        tags.update(rule.tags.regexes())
    require(sum(repositories.values()) + sum(tags.values()) <= MAX_REGEXES, "regular expressions too large together")
    return Policy(text, exempt, rules)
