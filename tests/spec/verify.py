#!/usr/bin/env python3
"""A second verifier for tagledger, written from docs/SPEC.md alone.

It shares no code with the project and uses no protobuf library: Python 3.11 or later, its standard library, and
`cryptography` for the arithmetic of Ed25519. It follows the specification in its order and with its names; the number in
front of a comment is the section. Whatever breaks a rule raises Refused, and nothing that depends on it counts as checked.

    verify.py evidence   --vkey VKEY FILE...    evidence files, section 17
    verify.py tlog-proof --vkey VKEY FILE...    C2SP tlog-proof files, section 17
    verify.py against    --vkey VKEY FILE FILE  do two files contradict each other? section 19
    verify.py replay     --vkey VKEY SOURCE     audit a whole log, section 18, from a directory or an http(s) address
    verify.py vectors    DIR                    the project's test vectors
"""
from __future__ import annotations

import argparse
import base64
import bisect
import hashlib
import http.client
import ipaddress
import itertools
import json
import os
import re
import struct
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from policy import CREATE, DELETE, OVERWRITE, RECREATE, Glob, Policy, PolicyRefused, linked_digest, read_policy


class Refused(Exception):
    """The thing breaks a rule of the specification. In an audit, `index` is the entry at which it does."""

    index: Optional[int] = None


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise Refused(reason)


# ---------------------------------------------------------------------------------------------------------------------
# 1. Notation

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
MAX_TIME_US = 253402300799999999  # the end of the year 9999


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def u32(n: int) -> bytes:
    return struct.pack(">I", n)


def u64(n: int) -> bytes:
    return struct.pack(">Q", n)


def from_base64(text: str, what: str, length: Optional[int] = None) -> bytes:
    """RFC 4648 section 4, with padding and with the unused bits zero."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Refused(f"{what}: not base64") from None
    require(base64.b64encode(data).decode() == text, f"{what}: base64 in another spelling")
    require(length is None or len(data) == length, f"{what}: {len(data)} bytes instead of {length}")
    return data


def decimal(text: str, what: str) -> int:
    require(re.fullmatch(r"0|[1-9][0-9]{0,19}", text) is not None and int(text) < 2**64, f"{what}: not a number below 2^64")
    return int(text)


# ---------------------------------------------------------------------------------------------------------------------
# 2. Names

LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"{LABEL}(?:\.{LABEL})*")
COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(rf"{COMPONENT}(?:/{COMPONENT})*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]*")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def check_registry(registry: str) -> None:
    bad = f"registry {registry!r} is not a canonical name"
    require(1 <= len(registry.encode()) <= 255, bad)
    require(registry not in ("index.docker.io", "registry-1.docker.io"), bad + ": write docker.io")
    form = re.fullmatch(r"(\[[^\]]*\]|[^:]+)(?::(.*))?", registry)
    require(form is not None, bad)
    host, port = form.groups()
    if host.startswith("["):
        require(host[1:-1] == rfc5952(host[1:-1]), bad + ": not an IPv6 address as in RFC 5952")
    else:
        require(HOST.fullmatch(host) is not None, bad)
    if port is not None:
        require(re.fullmatch(r"[1-9][0-9]{0,4}", port) is not None and int(port) <= 65535 and port != "443", bad + ": its port")


def rfc5952(text: str) -> Optional[str]:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    if "%" in text:
        return None
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else address.compressed


def check_repository(registry: str, repository: str) -> None:
    bad = f"repository {repository!r} is not a canonical name"
    require(1 <= len(repository.encode()) <= 255 and REPOSITORY.fullmatch(repository) is not None, bad)
    require(registry != "docker.io" or "/" in repository, bad + f": write library/{repository}")


def check_tag(tag: str) -> None:
    require(1 <= len(tag.encode()) <= 128 and TAG.fullmatch(tag) is not None, f"tag {tag!r} is not a name")


def check_digest(digest: str) -> None:
    require(DIGEST.fullmatch(digest) is not None, f"digest {digest!r} is not canonical")


def split_repository(text: str) -> Tuple[str, str]:
    registry, slash, repository = text.partition("/")
    require(slash == "/", f"{text!r} is not registry/repository")
    check_registry(registry)
    check_repository(registry, repository)
    return registry, repository


def split_tag(text: str) -> Tuple[str, str, str]:
    """`registry/repository:tag` is split at the first `/` and the last `:`."""
    rest, colon, tag = text.rpartition(":")
    require(colon == ":", f"{text!r} is not registry/repository:tag")
    check_tag(tag)
    return (*split_repository(rest), tag)


# ---------------------------------------------------------------------------------------------------------------------
# 3. Encoding: protobuf, of which each message has exactly one valid encoding

@dataclass(frozen=True)
class Field:
    name: str
    type: Any  # "uint", "int", "enum", "enums" (several, packed), "string", "bytes" or a Message
    repeated: bool = False
    choice: bool = False  # a member of the message's oneof


class Message:
    """A message's definition. `oneof` is the attribute that tells the member chosen; `keep`: the message's bytes are kept."""

    def __init__(self, name: str, fields: Dict[int, Field], oneof: str = "", keep: bool = False):
        self.name, self.fields, self.oneof, self.keep = name, fields, oneof, keep

    def decode(self, data: bytes) -> SimpleNamespace:
        zero = {"uint": 0, "int": 0, "enum": 0, "string": "", "bytes": b""}
        message = SimpleNamespace(**{
            f.name: [] if f.repeated or f.type == "enums" else None if f.choice or isinstance(f.type, Message) else zero[f.type]
            for f in self.fields.values()})
        if self.oneof:
            setattr(message, self.oneof, None)
        if self.keep:
            message.raw = data
        at, last = 0, 0
        while at < len(data):
            key, at = read_varint(data, at)
            number, wire = key >> 3, key & 7
            f = self.fields.get(number)
            require(f is not None, f"{self.name}: unknown field {number}")
            what = f"{self.name}.{f.name}"
            require(number > last or number == last and f.repeated, f"{what}: twice, or out of order")
            last = number
            require(wire == (0 if f.type in ("uint", "int", "enum") else 2), f"{what}: wrong wire type {wire}")
            value, at = read_varint(data, at)
            if wire == 0:
                if f.type != "uint" and value >= 2**63:
                    value -= 2**64
            else:
                require(value <= len(data) - at, f"{what}: cut short")
                value, at = data[at:at + value], at + value
                if f.type == "enums":
                    value = read_varints(value)
                elif f.type == "string":
                    try:
                        value = value.decode("utf-8")
                    except UnicodeDecodeError:
                        raise Refused(f"{what}: not UTF-8") from None
            if isinstance(f.type, Message):
                value = f.type.decode(value)
            else:
                require(f.choice or f.repeated or bool(value), f"{what}: a default value is written")
            if f.choice:
                require(getattr(message, self.oneof) is None, f"{self.name}: more than one {self.oneof}")
                setattr(message, self.oneof, f.name)
            if f.repeated:
                getattr(message, f.name).append(value)
            else:
                setattr(message, f.name, value)
        return message


def read_varints(data: bytes) -> List[int]:
    values, at = [], 0
    while at < len(data):
        value, at = read_varint(data, at)
        values.append(value - 2**64 if value >= 2**63 else value)
    return values


def read_varint(data: bytes, at: int) -> Tuple[int, int]:
    """The shortest varint, below 2^64."""
    value = 0
    for n in range(10):
        require(at + n < len(data), "protobuf: cut short")
        byte = data[at + n]
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            require(n == 0 or byte != 0, "protobuf: a varint is not the shortest")
            require(value < 2**64, "protobuf: a varint above 2^64 - 1")
            return value, at + n + 1
    raise Refused("protobuf: a varint of more than ten bytes")


def fields(*names_and_types: Tuple[int, str, Any]) -> Dict[int, Field]:
    return {number: Field(name, type_) for number, name, type_ in names_and_types}


# ---------------------------------------------------------------------------------------------------------------------
# 4. Statements

REQUESTED, HAPPENED, REFUSED, INTENDED = 1, 2, 3, 4  # Disposition
STARTED, STOPPED, OBSERVED = 1, 2, 3  # Phase

TAG_PUSH = Message("TagPush", fields((1, "registry", "string"), (2, "repository", "string"), (3, "tag", "string"),
                                     (4, "digest", "string"), (5, "media_type", "string"), (6, "disposition", "enum"),
                                     (7, "settles", "uint")))
TAG_DELETE = Message("TagDelete", fields((1, "registry", "string"), (2, "repository", "string"), (3, "tag", "string"),
                                         (4, "disposition", "enum"), (5, "settles", "uint")))
MANIFEST_DELETE = Message("ManifestDelete", fields((1, "registry", "string"), (2, "repository", "string"),
                                                   (3, "digest", "string"), (4, "disposition", "enum"),
                                                   (5, "settles", "uint")))
TAG_OBSERVED = Message("TagObserved", fields((1, "registry", "string"), (2, "repository", "string"), (3, "tag", "string"),
                                             (4, "digest", "string"), (5, "checks_entry", "uint"),
                                             (6, "last_seen_us", "uint"), (7, "first_seen_us", "uint")))
IMAGE = Message("Image", fields((1, "registry", "string"), (2, "repository", "string"), (3, "tag", "string"),
                                (4, "digest", "string")))
DEPLOYMENT = Message("Deployment", fields((1, "environment", "string"), (2, "cluster", "string"), (3, "namespace", "string"),
                                          (4, "workload", "string"), (5, "container", "string"), (6, "image", IMAGE),
                                          (7, "phase", "enum")))
ATTESTATION = Message("Attestation", fields((1, "digest", "string"), (2, "predicate_type", "string"),
                                            (3, "envelope_digest", "string"), (4, "signer", "string"), (5, "result", "enum")))
POLICY_CHANGE = Message("PolicyChange", fields((1, "policy", "string"), (2, "replaces", "string")))
GRANT = Message("Grant", {1: Field("repositories", "string", repeated=True), 2: Field("kinds", "enums")})
PRINCIPAL = Message("Principal", {
    1: Field("roles", "enums"), 2: Field("grants", GRANT, repeated=True), 3: Field("requires", "enums"),
    4: Field("token_sha256", "bytes", repeated=True), 5: Field("certificate_names", "string", repeated=True),
    6: Field("keys", "string", repeated=True)})
PRINCIPAL_CHANGE = Message("PrincipalChange", {
    1: Field("name", "string"), 2: Field("principal", PRINCIPAL, choice=True),
    3: Field("revocation", Message("Revocation", {}), choice=True)}, oneof="change", keep=True)
KEY_CHANGE = Message("KeyChange", fields((1, "vkey", "string"), (2, "replaces", "string"), (3, "consent", "bytes")))
ATTRIBUTE = Message("Attribute", fields((1, "key", "string"), (2, "value", "string")))
KINDS = (("tag_push", TAG_PUSH), ("tag_delete", TAG_DELETE), ("manifest_delete", MANIFEST_DELETE),
         ("tag_observed", TAG_OBSERVED), ("deployment", DEPLOYMENT), ("attestation", ATTESTATION),
         ("policy_change", POLICY_CHANGE), ("principal_change", PRINCIPAL_CHANGE),
         ("key_change", KEY_CHANGE))
STATEMENT = Message("Statement", {
    **{number: Field(name, type_, choice=True) for number, (name, type_) in enumerate(KINDS, 1)},
    **fields((16, "event_id", "string"), (17, "occurred_at_us", "int"), (18, "actor", "string"), (19, "source", "string"),
             (20, "ci_run", "string"), (21, "trace_id", "string")),
    22: Field("attributes", ATTRIBUTE, repeated=True)}, oneof="kind")


def check_text(text: str, what: str, least: int, most: int) -> None:
    require(least <= len(text.encode()) <= most, f"{what}: {len(text.encode())} bytes instead of {least} to {most}")
    require(CONTROL.search(text) is None, f"{what}: a control character")


def decode_statement(data: bytes) -> SimpleNamespace:
    """Decodes and checks a statement. Its kind is `.kind`, that member's message `.said`."""
    require(1 <= len(data) <= 64000, f"a statement of {len(data)} bytes")
    s = STATEMENT.decode(data)
    require(s.kind is not None, "a statement without a kind")
    require(len(data) <= 16384 or s.kind == "policy_change", f"a {s.kind} of {len(data)} bytes")
    said = s.said = getattr(s, s.kind)
    if s.kind == "policy_change":
        require(CONTROL.search(re.sub("[\n\t]", "", said.policy)) is None, "policy: a control character")
        parse_policy(said.policy)
        if said.replaces:
            check_digest(said.replaces)
    elif s.kind == "principal_change":
        check_principal_change(said)
    elif s.kind == "key_change":
        check_key_change(said)
    elif s.kind == "attestation":
        check_digest(said.digest)
        check_text(said.predicate_type, "predicate_type", 1, 256)
        check_digest(said.envelope_digest)
        check_text(said.signer, "signer", 0, 256)
        require(1 <= said.result <= 3, f"result: {said.result} is unknown")
    else:
        named = said
        if s.kind == "deployment":
            for name, least in (("environment", 1), ("cluster", 0), ("namespace", 0), ("workload", 1), ("container", 0)):
                check_text(getattr(said, name), name, least, 128)
            require(1 <= said.phase <= 3, f"phase: {said.phase} is unknown")
            require(said.image is not None, "a deployment without an image")
            named = said.image
        check_registry(named.registry)
        check_repository(named.registry, named.repository)
        if s.kind not in ("manifest_delete", "deployment") or s.kind == "deployment" and named.tag:
            check_tag(named.tag)
        if s.kind not in ("tag_delete", "tag_observed") or s.kind == "tag_observed" and named.digest:
            check_digest(named.digest)
        if s.kind in ("tag_push", "tag_delete", "manifest_delete"):
            require(1 <= said.disposition <= 4, f"disposition: {said.disposition} is unknown")
            require(said.settles == 0 or said.disposition in (HAPPENED, REFUSED), "settles: of what neither happened nor was refused")
        if s.kind == "tag_push":
            check_text(said.media_type, "media_type", 0, 256)
        if s.kind == "tag_observed":
            require(said.last_seen_us <= said.first_seen_us <= MAX_TIME_US, "last_seen_us, first_seen_us: not in this order, or after 9999")
    for name, most in (("event_id", 128), ("actor", 256), ("source", 256), ("ci_run", 512), ("trace_id", 64)):
        check_text(getattr(s, name), name, 0, most)
    require(0 <= s.occurred_at_us <= MAX_TIME_US, "occurred_at_us: not between 1970 and 9999")
    require(len(s.attributes) <= 32, "attributes: more than 32")
    for attribute in s.attributes:
        check_text(attribute.key, "an attribute's key", 1, 64)
        check_text(attribute.value, "an attribute's value", 0, 1024)
    keys = [attribute.key.encode() for attribute in s.attributes]
    require(all(a < b for a, b in zip(keys, keys[1:])), "attributes: not sorted, or a key twice")
    return s


def check_key_change(said: SimpleNamespace) -> None:
    said.next, said.before = parse_vkey(said.vkey), parse_vkey(said.replaces)
    require(said.next.origin == said.before.origin, "vkey: of another origin than the key that it replaces")
    require(said.next != said.before, "vkey: the key that it is to replace")
    message = b"tagledger.v1.key\n" + said.replaces.encode() + b"\n" + said.vkey.encode()
    require(verify_strict(said.next.key, said.consent, message), "consent: not that of the new key")


READER, WRITER, SCANNER, ADMIN = 1, 2, 3, 4  # Role
TOKEN, CERTIFICATE, SIGNATURE = 1, 2, 3  # Credential


def check_rising(values: Sequence[Any], what: str, least: int, most: int) -> None:
    require(least <= len(values) <= most, f"{what}: {len(values)} instead of {least} to {most}")
    ordered = [v.encode() if isinstance(v, str) else v for v in values]
    require(all(a < b for a, b in zip(ordered, ordered[1:])), f"{what}: not sorted, or twice the same")


def check_principal_change(said: SimpleNamespace) -> None:
    require(re.fullmatch("[a-z0-9][a-z0-9._-]{0,63}", said.name) is not None, f"{said.name!r} names no principal")
    require(said.change is not None, "neither a principal nor a revocation")
    if said.change == "revocation":
        return
    p = said.principal
    check_rising(p.roles, "roles", 1, 4)
    require(all(READER <= role <= ADMIN for role in p.roles), "an unknown role")
    speaks = WRITER in p.roles or SCANNER in p.roles
    require(1 <= len(p.grants) <= 32 if speaks else not p.grants, "grants: 1 to 32 for a writer or scanner, else none")
    for grant in p.grants:
        check_rising(grant.repositories, "a grant's repositories", 1, 64)
        for pattern in grant.repositories:
            try:
                Glob(pattern)
            except PolicyRefused as refused:
                raise Refused(f"a pattern: {refused}") from None
        check_rising(grant.kinds, "a grant's kinds", 0, 6)
        require(all(1 <= kind <= 6 for kind in grant.kinds), "an unknown kind of statement")
    check_rising(p.requires, "requires", 1, 3)
    require(all(TOKEN <= credential <= SIGNATURE for credential in p.requires), "an unknown credential")
    check_rising(p.token_sha256, "token_sha256", 0, 16)
    require(all(len(token) == 32 for token in p.token_sha256), "a token's hash has not 32 bytes")
    check_rising(p.certificate_names, "certificate_names", 0, 16)
    for name in p.certificate_names:
        check_text(name, "a name in a certificate", 1, 253)
    check_rising(p.keys, "keys", 0, 16)
    ids = [producer_key_id(parse_vkey(key).key) for key in p.keys]
    require(len(set(ids)) == len(ids), "the same key twice")
    for credential, values in ((TOKEN, p.token_sha256), (CERTIFICATE, p.certificate_names), (SIGNATURE, p.keys)):
        require(credential not in p.requires or values, "a credential is required of which there is none")


# ---------------------------------------------------------------------------------------------------------------------
# 5. Entries

CLAIMED, AUTHENTICATED, SIGNED, CONFIRMED = 1, 2, 3, 4  # Assurance

PRODUCER = Message("Producer", fields((1, "key_id", "string"), (2, "signature", "bytes")))
SUBJECT = Message("Subject", fields((1, "kind", "enum"), (2, "version", "uint"), (3, "name", "string")))
RECORD = Message("Record", {
    **fields((1, "index", "uint"), (2, "recorded_at_us", "uint"), (3, "statement", "bytes"), (4, "principal", "string"),
             (5, "assurance", "enum"), (6, "producer", PRODUCER), (7, "outcome", "enum"), (8, "rule", "string"),
             (9, "detail", "string")),
    10: Field("subjects", SUBJECT, repeated=True)})
COMMITMENT = Message("Commitment", fields((1, "index", "uint"), (2, "recorded_at_us", "uint"), (3, "map_root", "bytes"),
                                          (4, "map_size", "uint")))
ENTRY = Message("Entry", {1: Field("record", "bytes", choice=True), 2: Field("commitment", "bytes", choice=True),
                          3: Field("signature", "bytes")}, oneof="body")


@dataclass
class Entry:
    """A decoded entry with a valid signature. It has a record, with its statement, or a commitment."""

    data: bytes
    leaf: bytes
    index: int
    recorded_at_us: int
    record: Optional[SimpleNamespace] = None
    statement: Optional[SimpleNamespace] = None
    commitment: Optional[SimpleNamespace] = None

    @cached_property
    def subjects(self) -> Dict[bytes, SimpleNamespace]:
        """The subjects of a record by their keys."""
        if self.record is None:
            return {}
        found = {subject_key(s.kind, components(s.kind, self.statement, s.name)): s for s in self.record.subjects}
        require(len(found) == len(self.record.subjects), f"entry {self.index} names a subject twice")
        return found


def decode_entry(data: bytes, keys: Keys) -> Entry:
    require(1 <= len(data) <= 65535, f"an entry of {len(data)} bytes")
    outer = ENTRY.decode(data)
    require(outer.body is not None, "an entry without a body")
    require(len(outer.signature) == 64, "the signature has not 64 bytes")
    if outer.body == "record":
        body, r = outer.record, RECORD.decode(outer.record)
        statement = decode_statement(r.statement)
        require(CLAIMED <= r.assurance <= CONFIRMED, f"assurance: {r.assurance} is unknown")
        require(r.producer is None or len(r.producer.signature) == 64, "the producer's signature has not 64 bytes")
        require(APPLIED <= r.outcome <= NOTED, f"outcome: {r.outcome} is unknown")
        require(len(r.subjects) > 0, "a record without subjects")
        for subject in r.subjects:
            require(TAG_SUBJECT <= subject.kind <= KEYS, f"subject kind {subject.kind} is unknown")
        entry = Entry(data, leaf_hash(data), r.index, r.recorded_at_us, record=r, statement=statement)
    else:
        body, c = outer.commitment, COMMITMENT.decode(outer.commitment)
        require(len(c.map_root) == 32, "map_root has not 32 bytes")
        entry = Entry(data, leaf_hash(data), c.index, c.recorded_at_us, commitment=c)
    vkey = chain(keys).of_entry(entry.index)
    message = b"tagledger.v1.entry\n" + vkey.origin.encode() + b"\n" + body
    require(verify_strict(vkey.key, outer.signature, message), "the ledger's signature on the entry does not hold")
    return entry


# ---------------------------------------------------------------------------------------------------------------------
# 6. Signatures: Ed25519, and the strict rule

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)


def decompress(encoded: bytes) -> Optional[Tuple[int, int]]:
    """The point of the curve, or None. A y that is not below p is reduced."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, (y & (1 << 255) - 1) % P
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * SQRT_MINUS_1 % P
    if v * x * x % P != u:
        return None
    return (P - x) % P if x % 2 != sign else x, y


def is_small_order(point: Tuple[int, int]) -> bool:
    """Is the point, doubled three times, the neutral element (0, 1)?  In projective coordinates."""
    x, y, z = point[0], point[1], 1
    for _ in range(3):
        b, c, d = (x + y) ** 2 % P, x * x % P, y * y % P
        f = (d - c) % P  # the curve is -x^2 + y^2 = 1 + d x^2 y^2
        j = (f - 2 * z * z) % P
        x, y, z = (b - c - d) * j % P, f * (-c - d) % P, f * j % P
    return x == 0 and y == z


def decodes_well(encoded: bytes) -> bool:
    point = decompress(encoded)
    return point is not None and not is_small_order(point)


@lru_cache(maxsize=64)
def usable_key(key: bytes) -> bool:
    return decodes_well(key)


def verify_strict(key: bytes, signature: bytes, message: bytes) -> bool:
    if len(key) != 32 or len(signature) != 64:
        return False
    r, s = signature[:32], signature[32:]
    if int.from_bytes(s, "little") >= L:  # step 1
        return False
    if not usable_key(key) or not decodes_well(r):  # step 2
        return False
    try:  # steps 3 and 4: OpenSSL compares the encoding of [S]B - [k]A with R, without the cofactor
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def producer_key_id(key: bytes) -> str:
    return sha256(key)[:8].hex()


def verify_producer(key: bytes, signature: bytes, statement: bytes) -> bool:
    return verify_strict(key, signature, b"tagledger.v1.statement\n" + statement)


# ---------------------------------------------------------------------------------------------------------------------
# 7. The tree

def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00", entry)


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01", left, right)


class Tree:
    """A tree that grows at its right end: of its leaves it keeps the roots of the complete subtrees, widest first."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: List[bytes] = []

    def append(self, leaf: bytes) -> None:
        width = self.size
        while width & 1:
            leaf, width = node(self.peaks.pop(), leaf), width >> 1
        self.peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.peaks:
            return sha256(b"")
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node(peak, root)
        return root


# ---------------------------------------------------------------------------------------------------------------------
# 8. Keys, notes, checkpoints

class VKey(NamedTuple):
    origin: str
    hash: bytes
    key: bytes


class Checkpoint(NamedTuple):
    size: int
    root: bytes


def check_origin(origin: str) -> None:
    require(1 <= len(origin.encode()) <= 255, "an origin has 1 to 255 bytes")
    require(re.search(r"[\s+]", origin) is None and CONTROL.search(origin) is None,
            "an origin with white space, a control character or +")
    require(not origin.startswith("tagledger.v1."), "an origin that begins with tagledger.v1.")


def parse_vkey(text: str) -> VKey:
    parts = text.split("+", 2)
    require(len(parts) == 3, "a vkey is <origin>+<hash>+<key>")
    origin, hash_, typed = parts[0], parts[1], from_base64(parts[2], "the vkey's key", 33)
    check_origin(origin)
    require(typed[0] == 1, "the vkey's type is not 1, Ed25519")
    require(hash_ == sha256(origin.encode(), b"\n", typed)[:4].hex(), "the vkey's hash is not that of its name and key")
    require(usable_key(typed[1:]), "the vkey's key is no point of the curve, or one of small order")
    return VKey(origin, bytes.fromhex(hash_), typed[1:])


class Chain:
    """The keys of a ledger, each with the first entry that it signs."""

    def __init__(self, links: Sequence[Tuple[int, VKey]]):
        self.links = list(links)

    @property
    def origin(self) -> str:
        return self.links[0][1].origin

    def position(self, index: int) -> int:
        """Which of the keys signs the entry with this index."""
        return max(n for n, (first, _) in enumerate(self.links) if first <= index)

    def of_entry(self, index: int) -> VKey:
        return self.links[self.position(index)][1]

    def after(self, said: SimpleNamespace, index: int) -> Chain:
        """With the key that the KeyChange in the entry with this index brings."""
        require(said.next.origin == self.origin, "the keys are those of another ledger")
        require(said.before == self.links[-1][1], "it replaces another key than the one in force")
        known = [vkey for _, vkey in self.links]
        require(all(said.next.hash != vkey.hash and said.next.key != vkey.key for vkey in known), "the new key was one before")
        return Chain([*self.links, (index + 2, said.next)])


Keys = Union[VKey, Chain]


def chain(keys: Keys) -> Chain:
    """A key of which nothing else is known is a chain of one."""
    return keys if isinstance(keys, Chain) else Chain([(0, keys)])


def open_note(note: str, keys: Keys) -> Tuple[str, int]:
    """Opens a note; gives its text, and the position of the last of the keys that signed it."""
    require(len(note.encode()) <= 65536, "note: above 65,536 bytes")
    require(re.search("[\x00-\x09\x0b-\x1f]", note) is None, "note: a control character")
    text, gap, signatures = note.rpartition("\n\n")
    require(gap != "", "note: no empty line before the signatures")
    text += "\n"
    require(signatures.endswith("\n"), "note: the last signature line does not end in a line break")
    signers = []
    for line in signatures[:-1].split("\n"):
        form = re.fullmatch("— ([^ ]+) ([^ ]+)", line)
        require(form is not None, "note: a signature line of another form")
        name, blob = form.group(1), from_base64(form.group(2), "note: a signature")
        require(len(blob) >= 5, "note: a signature of less than 5 bytes")
        for position, (_, vkey) in enumerate(chain(keys).links):
            if name == vkey.origin and blob[:4] == vkey.hash:
                require(verify_strict(vkey.key, blob[4:], text.encode()), "note: the ledger's signature does not hold")
                signers.append(position)
    require(len(signers) > 0, "note: not signed by the pinned key")
    return text, max(signers)


def open_checkpoint(note: str, keys: Keys) -> Checkpoint:
    text, signer = open_note(note, keys)
    lines = text.split("\n")
    require(len(lines) == 4 and lines[3] == "", "checkpoint: not three lines")
    require(lines[0] == chain(keys).origin, "checkpoint: of another origin")
    checkpoint = Checkpoint(decimal(lines[1], "checkpoint: size"), from_base64(lines[2], "checkpoint: root", 32))
    require(signer >= chain(keys).position(max(checkpoint.size - 1, 0)), "checkpoint: signed by a key that was replaced before")
    return checkpoint


def open_by_newest(note: str, keys: Chain) -> Checkpoint:
    """Opens a checkpoint that the newest of the keys signed: the consent to follow another is public, and shows nobody's word."""
    open_checkpoint(note, keys.links[-1][1])
    return open_checkpoint(note, keys)


# ---------------------------------------------------------------------------------------------------------------------
# 9. Proofs

def inclusion_root(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to."""
    require(index < size, "inclusion: the index is not below the size")
    at, last, hash_ = index, size - 1, leaf
    for s in path:
        require(last > 0, "inclusion: a hash too many")
        if at & 1 or at == last:
            hash_ = node(s, hash_)
            while at & 1 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            hash_ = node(hash_, s)
        at, last = at >> 1, last >> 1
    require(last == 0, "inclusion: a hash is missing")
    return hash_


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    require(inclusion_root(index, size, leaf, path) == root, "inclusion: it leads to another root")


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]) -> None:
    require(0 < first <= second, "consistency: the sizes are not 0 < first <= second")
    if first == second:
        require(not path, "consistency: hashes where none are needed")
        require(first_root == second_root, "consistency: two roots of one size")
        return
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if first & (first - 1) == 0:
        start = first_root
    else:
        require(len(path) > 0, "consistency: a hash is missing")
        start, path = path[0], path[1:]
    old = new = start
    for s in path:
        require(last > 0, "consistency: a hash too many")
        if at & 1 or at == last:
            old, new = node(s, old), node(s, new)
            while at & 1 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            new = node(new, s)
        at, last = at >> 1, last >> 1
    require(last == 0, "consistency: a hash is missing")
    require(old == first_root and new == second_root, "consistency: it leads to other roots")


def verify_multi(leaves: Sequence[Tuple[int, bytes]], size: int, proof: Sequence[bytes], root: bytes) -> None:
    require(len(leaves) > 0, "multi-proof: without leaves")
    require(all(a[0] < b[0] for a, b in zip(leaves, leaves[1:])), "multi-proof: the indexes do not strictly rise")
    require(leaves[-1][0] < size, "multi-proof: an index is not below the size")
    hashes = iter(proof)

    def following() -> bytes:
        for hash_ in hashes:
            return hash_
        raise Refused("multi-proof: a hash is missing")

    known, width = list(leaves), size
    while width > 1:
        above, i = [], 0
        while i < len(known):
            index, hash_ = known[i]
            i += 1
            if index & 1:
                hash_ = node(following(), hash_)
            elif i < len(known) and known[i][0] == index + 1:
                hash_ = node(hash_, known[i][1])
                i += 1
            elif index + 1 < width:
                hash_ = node(hash_, following())
            # else: the last node of a level of odd width moves up unchanged
            above.append((index >> 1, hash_))
        known, width = above, (width + 1) >> 1
    require(known[0][1] == root, "multi-proof: it leads to another root")
    require(next(hashes, None) is None, "multi-proof: a hash too many")


# ---------------------------------------------------------------------------------------------------------------------
# 10. The log over HTTP

TILE = re.compile(r"/tile/([0-7]|entries)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class Tile(NamedTuple):
    level: Any  # 0 to 7, or "entries"
    index: int
    width: int

    def covered_from(self) -> int:
        """The size of the smallest tree that has all of the tile."""
        return (256 * self.index + self.width) * 256 ** (0 if self.level == "entries" else self.level)

    def path(self) -> str:
        groups = f"{self.index:03}"
        groups = groups.zfill(-(-len(groups) // 3) * 3)
        groups = [groups[i:i + 3] for i in range(0, len(groups), 3)]
        partial = "" if self.width == 256 else f".p/{self.width}"
        return f"/tile/{self.level}/" + "".join(f"x{g}/" for g in groups[:-1]) + groups[-1] + partial


def parse_tile(path: str) -> Tile:
    form = TILE.fullmatch(path)
    require(form is not None, f"{path} is no path of a tile")
    level, index, width = form.groups()
    tile = Tile(level if level == "entries" else int(level), int(re.sub("[x/]", "", index)), int(width or 256))
    require(tile.path() == path, f"{path} is no path of a tile: {tile.path()} is")
    return tile


def split_bundle(data: bytes, count: int) -> List[bytes]:
    entries, at = [], 0
    for _ in range(count):
        require(at + 2 <= len(data), "entry bundle: cut short")
        length = struct.unpack_from(">H", data, at)[0]
        require(at + 2 + length <= len(data), "entry bundle: cut short")
        entries.append(data[at + 2:at + 2 + length])
        at += 2 + length
    require(at == len(data), "entry bundle: something trails")
    return entries


# ---------------------------------------------------------------------------------------------------------------------
# 11. Subjects

TAG_SUBJECT, DIGEST_SUBJECT, WORKLOAD, TAGS_OF, REPOSITORIES, ENVIRONMENTS, WORKLOADS_OF, POLICY, PRINCIPALS, KEYS = range(1, 11)
WORKLOAD_FIELDS = ("environment", "cluster", "namespace", "workload", "container")


@lru_cache(maxsize=65536)
def subject_key(kind: int, parts: Tuple[str, ...]) -> bytes:
    encoded = [part.encode() for part in parts]
    return sha256(b"tagledger.v1.subject\n", bytes([kind]), *(u32(len(e)) + e for e in encoded))


def components(kind: int, statement: SimpleNamespace, name: str) -> Tuple[str, ...]:
    """The components of a subject of a record: those that the statement names. A kind it does not have is refused."""
    said, what = statement.said, statement.kind
    image = said.image if what == "deployment" else said
    if what == "manifest_delete" and kind == TAG_SUBJECT:
        check_tag(name)
        return said.registry, said.repository, name
    if kind == DIGEST_SUBJECT and name:  # the digest that a referrer tag hangs on
        check_digest(name)
        require(name != getattr(image, "digest", ""), "a subject has a name that its statement gives already")
        require(what == "manifest_delete" or linked_digest(getattr(image, "tag", "")) == name, "a digest that nothing hangs on")
        return (name,)
    require(name == "", "a subject has a name that its statement gives already")
    if what in ("tag_push", "tag_delete", "tag_observed") or what == "deployment" and image.tag:
        if kind == TAG_SUBJECT:
            return image.registry, image.repository, image.tag
        if kind == TAGS_OF:
            return image.registry, image.repository
        if kind == REPOSITORIES:
            return ()
    if kind == DIGEST_SUBJECT and getattr(image, "digest", ""):
        return (image.digest,)
    if what == "deployment" and kind == WORKLOAD:
        return tuple(getattr(said, f) for f in WORKLOAD_FIELDS)
    if what == "deployment" and kind == WORKLOADS_OF:
        return (said.environment,)
    if what == "deployment" and kind == ENVIRONMENTS or what == "policy_change" and kind == POLICY:
        return ()
    if what == "principal_change" and kind == PRINCIPALS or what == "key_change" and kind == KEYS:
        return ()
    raise Refused(f"a {what} has no subject of kind {kind}")


# ---------------------------------------------------------------------------------------------------------------------
# 12. Outcomes

APPLIED, UNCHANGED, DENIED, VIOLATION, FAILED, DRIFT, NOTED = range(1, 8)


def effect(kind: int, statement: SimpleNamespace, outcome: int) -> Tuple[str, Optional[str]]:
    """What an entry does to a subject: sets or confirms a digest, clears, or keeps."""
    said, what = statement.said, statement.kind
    if kind == TAG_SUBJECT:
        if what == "tag_push" and outcome in (APPLIED, VIOLATION):
            return "sets", said.digest
        if what == "tag_push" and outcome == UNCHANGED:
            return "confirms", said.digest
        if what in ("tag_delete", "manifest_delete") and outcome in (APPLIED, VIOLATION):
            return "clears", None
        if what == "tag_observed" and said.digest:
            return "confirms" if outcome == UNCHANGED else "sets", said.digest
        if what == "tag_observed" and outcome != UNCHANGED:
            return "clears", None
    if kind == WORKLOAD and what == "deployment":
        if said.phase != STOPPED:
            return "confirms" if outcome == UNCHANGED else "sets", said.image.digest
        if outcome != UNCHANGED:
            return "clears", None
    if kind == POLICY and what == "policy_change" and outcome in (APPLIED, UNCHANGED):
        return "sets" if outcome == APPLIED else "confirms", "sha256:" + sha256(said.policy.encode()).hex()
    if kind == PRINCIPALS and what == "principal_change" and outcome == APPLIED:
        return "sets", "sha256:" + sha256(said.raw).hex()
    if kind == KEYS and what == "key_change" and outcome == APPLIED:
        return "sets", "sha256:" + sha256(said.vkey.encode()).hex()
    return "keeps", None


# ---------------------------------------------------------------------------------------------------------------------
# 13. Effective

def effective_after(does: str, index: int, before: int) -> int:
    """Of a version: from what its entry does, the entry's index, and the effective of the version before (0: none)."""
    return {"sets": 1 + index, "clears": 0, "confirms": before, "keeps": before}[does]


# ---------------------------------------------------------------------------------------------------------------------
# 15. Histories and the subject map

NOTHING = bytes(32)


def history_leaf(index: int, leaf: bytes, effective: int) -> bytes:
    return sha256(b"\x00\x01", u64(index), leaf, u64(effective))


def map_leaf(key: bytes, count: int, root: bytes) -> bytes:
    return sha256(b"\x02", key, u64(count), root)


def map_node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x03", left, right)


def bit(key: bytes, depth: int) -> int:
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


class SubjectMap:
    """The subject map as a trie. A subtree is None, a leaf (key, hash), or a list [left, right, hash or None]."""

    def __init__(self) -> None:
        self.top: Any = None
        self.size = 0

    def put(self, key: bytes, hash_: bytes) -> None:
        self.top = self._put(self.top, key, hash_, 0)

    def _put(self, tree: Any, key: bytes, hash_: bytes, depth: int) -> Any:
        if tree is None:
            self.size += 1
            return key, hash_
        if isinstance(tree, tuple):
            if tree[0] == key:
                return key, hash_
            other, tree = tree, [None, None, None]
            tree[bit(other[0], depth)] = other
        side = bit(key, depth)
        tree[side], tree[2] = self._put(tree[side], key, hash_, depth + 1), None
        return tree

    def root(self) -> bytes:
        return self._hash(self.top)

    def _hash(self, tree: Any) -> bytes:
        if tree is None:
            return NOTHING
        if isinstance(tree, tuple):
            return tree[1]
        if tree[2] is None:
            tree[2] = map_node(self._hash(tree[0]), self._hash(tree[1]))
        return tree[2]


class HistoryLeaf(NamedTuple):
    version: int
    index: int
    effective: int


class OtherLeaf(NamedTuple):
    key: bytes
    count: int
    root: bytes


@dataclass
class SubjectProof:
    key: bytes
    siblings: List[bytes]
    count: int = 0  # of the history; 0: the subject never occurred
    root: bytes = b""
    leaves: List[HistoryLeaf] = field(default_factory=list)
    proof: List[bytes] = field(default_factory=list)
    other: Optional[OtherLeaf] = None


def check_subject_proof(p: SubjectProof, commitment: Entry, entries: Dict[int, Entry]) -> None:
    """Checks a subject proof under the map root of a commitment. `entries` are the verified ones."""
    depth = len(p.siblings)
    require(depth <= 256, "subject proof: more than 256 siblings")
    if p.count:
        hash_ = map_leaf(p.key, p.count, p.root)
    elif p.other:
        require(p.other.key != p.key, "subject proof: the other leaf is the key's own")
        require(p.other.count > 0, "subject proof: a count of 0")
        require(all(bit(p.other.key, d) == bit(p.key, d) for d in range(depth)),
                "subject proof: the other leaf is not on the path")
        hash_ = map_leaf(*p.other)
    else:
        hash_ = NOTHING
    for d in reversed(range(depth)):
        hash_ = map_node(p.siblings[d], hash_) if bit(p.key, d) else map_node(hash_, p.siblings[d])
    require(hash_ == commitment.commitment.map_root, "subject proof: it leads to another map root")
    if not p.count:
        return
    for leaf in p.leaves:
        what = f"subject proof: version {leaf.version}"
        entry = entries.get(leaf.index)
        require(entry is not None, f"{what}: its entry {leaf.index} is not shown")
        require(leaf.index < commitment.index, f"{what}: its entry is not below the commitment's")
        subject = entry.subjects.get(p.key)
        require(subject is not None, f"{what}: entry {leaf.index} does not have the subject")
        require(subject.version == leaf.version, f"{what}: entry {leaf.index} says version {subject.version}")
    require(all(a.version < b.version and a.index < b.index for a, b in zip(p.leaves, p.leaves[1:])),
            "subject proof: versions and indexes do not rise together")
    if p.leaves:
        hashes = [(v.version, history_leaf(v.index, entries[v.index].leaf, v.effective)) for v in p.leaves]
        verify_multi(hashes, p.count, p.proof, p.root)
    else:
        require(not p.proof, "subject proof: hashes without leaves")


# ---------------------------------------------------------------------------------------------------------------------
# 16. Evidence

@dataclass
class Page:
    """The evidence of one response: as read, and, once it is checked, what it shows."""

    note: str
    log_entries: List[Tuple[int, bytes]]
    proof: List[bytes]
    subjects: List[SubjectProof]
    checkpoint: Checkpoint = Checkpoint(0, b"")
    entries: Dict[int, Entry] = field(default_factory=dict)

    def last(self) -> Optional[Entry]:
        """The last leaf of the checkpoint, if it is shown."""
        return self.entries.get(self.checkpoint.size - 1)


def check_entries(page: Page, keys: Keys) -> None:
    """Steps 1 to 5: the checkpoint, the entries, and that they are in its tree."""
    page.checkpoint = open_checkpoint(page.note, keys)
    for index, data in page.log_entries:
        entry = decode_entry(data, keys)
        require(entry.index == index, f"entry {index} says that it is entry {entry.index}")
        require(index not in page.entries, f"entry {index} is there twice")
        page.entries[index] = entry
    leaves = [(index, entry.leaf) for index, entry in page.entries.items()]
    if leaves:
        verify_multi(leaves, page.checkpoint.size, page.proof, page.checkpoint.root)
    else:
        require(not page.proof, "a proof without entries")
    check_times(page.entries)
    last = page.last()
    require(last is None or last.commitment is not None, "the last entry of the checkpoint is no commitment")


def check_times(entries: Dict[int, Entry]) -> None:
    times = [entry.recorded_at_us for _, entry in sorted(entries.items())]
    require(all(a < b for a, b in zip(times, times[1:])), "recorded_at_us does not rise with the index")


def check_subjects(page: Page, entries: Dict[int, Entry]) -> None:
    """Step 6. `entries` are those of all pages."""
    require(not page.subjects or page.last() is not None, "the checkpoint's last entry is not shown, which subject proofs need")
    keys = [proof.key for proof in page.subjects]
    require(len(set(keys)) == len(keys), "two proofs of one subject on a page")
    for proof in page.subjects:
        check_subject_proof(proof, page.last(), entries)


def follow(shown: Optional[Page], trusted: VKey) -> Chain:
    """The keys that a page shows, of which one is trusted: every change of the key, and that there are no others."""
    if shown is None:
        return chain(trusted)
    keys, count = None, 0
    for index, data in shown.log_entries:
        outer = ENTRY.decode(data)
        if outer.body != "record":
            continue
        record = RECORD.decode(outer.record)
        statement = decode_statement(record.statement)
        require(statement.kind == "key_change", f"entry {index} changes no key")
        count += 1
        if record.outcome != APPLIED:
            continue
        keys = keys or chain(statement.said.before)
        require(keys.position(index) == len(keys.links) - 1, f"entry {index}: the key that it replaces was not in force")
        keys = keys.after(statement.said, index)
    keys = keys or chain(trusted)
    require(any(vkey == trusted for _, vkey in keys.links), "the trusted key is none of those shown")
    open_by_newest(shown.note, keys)
    check_entries(shown, keys)
    check_subjects(shown, shown.entries)
    own = [proof for proof in shown.subjects if proof.key == subject_key(KEYS, ())]
    require(len(own) == 1 and own[0].count == count, "not every change of the key is shown")
    return keys


class Growth(NamedTuple):
    older: int
    newer: int
    proof: List[bytes]


def check_growth(growth: Sequence[Growth], older: Checkpoint, newer: Checkpoint) -> None:
    """That the two are checkpoints of one log, by one of the consistency proofs that are there."""
    if older.size == newer.size:
        require(older.root == newer.root, f"a fork: two roots of the size {older.size}")
        return
    reason = Refused(f"no consistency proof from size {older.size} to {newer.size}")
    for g in growth:
        if (g.older, g.newer) == (older.size, newer.size):
            try:
                return verify_consistency(older.size, newer.size, older.root, newer.root, g.proof)
            except Refused as refused:
                reason = refused
    raise reason


# ---------------------------------------------------------------------------------------------------------------------
# 17. Answers

class StateAt(NamedTuple):
    """The state of a subject at a time: between which leaves, and what is in force."""

    at: Optional[HistoryLeaf]
    next: Optional[HistoryLeaf]
    digest: Optional[str]
    set_by: Optional[int]
    total: int


class Answer:
    """Derives the answer to a question from verified pages, and from nothing else."""

    def __init__(self, evidence: EvidenceFile, vkey: VKey):
        self.file, self.pages = evidence, evidence.pages
        keys = follow(evidence.keys, vkey)
        for page in self.pages:
            check_entries(page, keys)
        self.join()
        self.entries: Dict[int, Entry] = {}
        for page in self.pages:
            self.entries.update(page.entries)
        check_times(self.entries)
        for page in self.pages:
            check_subjects(page, self.entries)
            for proof in page.subjects:
                for leaf in proof.leaves:
                    self.check_effective(proof, leaf)
        for contradiction in contradictions(self.pages):  # section 19, within one answer
            raise Refused(f"the evidence contradicts itself: {contradiction}")

    def join(self) -> None:
        """The checkpoints of the pages are of one log. There are no other consistency proofs than those needed."""
        needed, newest = set(), self.pages[0].checkpoint
        for page in self.pages[1:]:
            older, newer = sorted((newest, page.checkpoint), key=lambda c: c.size)
            check_growth(self.file.growth, older, newer)
            needed.add((older.size, newer.size))
            newest = newer
        question = self.file.question
        if question["kind"] == "inclusion":
            needed.add((question["tree_size"], self.pages[0].checkpoint.size))
        else:
            require(not self.file.path, "path: there is none for this question")
        for g in self.file.growth:
            require(0 < g.older < g.newer and (g.older, g.newer) in needed,
                    f"growth: no proof is needed from size {g.older} to {g.newer}")

    # The moment, and which proof

    def now(self) -> int:
        last = self.pages[0].last()
        require(last is not None, "the last entry of the first page's checkpoint is not shown, which says when now is")
        return last.recorded_at_us

    def moment(self, at_us: int) -> int:
        return min(at_us or self.now(), self.now())

    def proofs(self, key: bytes, closed_at: int) -> Iterator[SubjectProof]:
        """The proofs of a subject on pages closed then or later."""
        for page in self.pages:
            for proof in page.subjects:
                if proof.key == key and page.last().recorded_at_us >= closed_at:
                    yield proof

    def from_one(self, kind: int, parts: Tuple[str, ...], closed_at: int, derive: Callable[[SubjectProof], Any]) -> Any:
        """What is needed of one subject comes from one proof; any that satisfies the conditions will do."""
        reason = Refused(f"no proof of {'/'.join(parts) or 'subject kind %d' % kind}")
        for proof in self.proofs(subject_key(kind, parts), closed_at):
            try:
                return derive(proof)
            except Refused as refused:
                reason = refused
        raise reason

    def time(self, leaf: HistoryLeaf) -> int:
        return self.entries[leaf.index].recorded_at_us

    # The state of a subject

    def state(self, proof: SubjectProof, t: int) -> StateAt:
        if not proof.count:
            return StateAt(None, None, None, None, 0)
        v = next((leaf for leaf in reversed(proof.leaves) if self.time(leaf) <= t), None)
        w = next((leaf for leaf in proof.leaves if self.time(leaf) > t), None)
        after = v.version + 1 if v else 0
        require((w.version if w else proof.count) == after, "the version after the time is not shown")
        require(v is not None or w is not None, "no version of the history is shown")
        return StateAt(v, w, *(self.in_force(proof, v) if v else (None, None)), proof.count)

    def check_effective(self, proof: SubjectProof, leaf: HistoryLeaf) -> None:
        """What a leaf says is in force fits what its entry does, and the leaf before if that is shown."""
        effective, (does, _) = leaf.effective, self.does(self.entries[leaf.index], proof.key)
        bad = f"version {leaf.version}: effective is {effective}, but entry {leaf.index} {does}"
        if does == "sets":
            require(effective == 1 + leaf.index, bad)
        elif does == "clears":
            require(effective == 0, bad)
        elif does == "confirms":
            require(0 < effective <= leaf.index, bad)
        else:
            require(effective <= leaf.index and (effective == 0 or leaf.version > 0), bad)
        bound = self.entries[leaf.index].subjects[proof.key].kind in (TAG_SUBJECT, WORKLOAD, POLICY, PRINCIPALS)
        require(bound or effective == 0, f"{bad}, and the subject is one that is never bound")  # section 13
        if does in ("confirms", "keeps"):
            at = bisect.bisect_left(proof.leaves, (leaf.version,))
            before = proof.leaves[at - 1] if at else None
            if before and (before.version + 1 == leaf.version or 0 < effective <= 1 + before.index):
                require(effective == before.effective, f"{bad}, and at version {before.version} it was {before.effective}")

    def in_force(self, proof: SubjectProof, leaf: HistoryLeaf) -> Tuple[Optional[str], Optional[int]]:
        """What is in force after a version: the digest and the index of the entry that set it."""
        effective, (does, digest) = leaf.effective, self.does(self.entries[leaf.index], proof.key)
        if effective == 0:
            return None, None
        setter = self.entries.get(effective - 1)
        require(setter is not None, f"entry {effective - 1}, which set what is in force, is not shown")
        subject = setter.subjects.get(proof.key)
        require(subject is not None, f"entry {effective - 1} does not have the subject")
        require(subject.version <= leaf.version, f"entry {effective - 1} has a later version")
        sets, in_force = self.does(setter, proof.key)
        require(sets == "sets", f"entry {effective - 1} sets no digest")
        require(does != "confirms" or digest == in_force, f"version {leaf.version} confirms another digest than was set")
        return in_force, effective - 1

    @staticmethod
    def does(entry: Entry, key: bytes) -> Tuple[str, Optional[str]]:
        return effect(entry.subjects[key].kind, entry.statement, entry.record.outcome)

    # A part of a history

    def part(self, kind: int, parts: Tuple[str, ...], question: Dict[str, Any]) -> Dict[str, Any]:
        since, until, limit = question["since_us"], question["until_us"], question["limit"]
        last = min(self.now(), until - 1) if until else self.now()

        def derive(proof: SubjectProof) -> Dict[str, Any]:
            taken = [leaf for leaf in proof.leaves if since <= self.time(leaf) <= last]
            first = 1 + max((leaf.version for leaf in proof.leaves if self.time(leaf) < since), default=-1)
            end = min((leaf.version for leaf in proof.leaves if self.time(leaf) > last), default=proof.count)
            if question["newest_first"]:
                taken.reverse()
            is_cut = 0 < limit <= len(taken)
            if is_cut:
                taken = taken[:limit]
                if question["newest_first"]:
                    first = taken[-1].version
                else:
                    end = 1 + taken[-1].version
            require(sorted(leaf.version for leaf in taken) == list(range(first, end)), "versions of the part are missing")
            versions = []
            for leaf in taken:
                digest, set_by = self.in_force(proof, leaf)
                versions.append({"version": leaf.version, "index": leaf.index, "recorded_at_us": self.time(leaf),
                                 "digest": digest, "set_by": set_by})
            return {"versions": versions, "is_cut": is_cut, "total": proof.count}

        return {"as_of_us": None, **self.from_one(kind, parts, last, derive)}

    # Lists

    def members(self, kind: int, parts: Tuple[str, ...], t: int) -> Iterator[Tuple[str, ...]]:
        """The members of a catalogue at a time, by their components. Who reads to the end learns that these are all."""
        found = []
        for proof in self.proofs(subject_key(kind, parts), t):
            run = [leaf for n, leaf in enumerate(proof.leaves) if leaf.version == n and self.time(leaf) <= t]
            after = next(iter(proof.leaves[len(run):]), None)
            complete = len(run) == proof.count or after is not None and after.version == len(run) and self.time(after) > t
            found.append((complete, run))
        require(len(found) > 0, f"no proof of the members of {'/'.join(parts) or 'subject kind %d' % kind}")
        complete, run = max(found, key=lambda f: (f[0], len(f[1])))
        member = {TAGS_OF: TAG_SUBJECT, REPOSITORIES: TAGS_OF, WORKLOADS_OF: WORKLOAD, ENVIRONMENTS: WORKLOADS_OF}[kind]
        for leaf in run:
            yield components(member, self.entries[leaf.index].statement, "")
        require(complete, f"not all members of {'/'.join(parts) or 'subject kind %d' % kind} are shown")

    def collect(self, items: Iterable[Any], limit: int) -> Tuple[List[Any], bool]:
        """A list is cut once it has `limit` items; then nothing more has to be shown."""
        taken: List[Any] = []
        for item in items:
            taken.append(item)
            if len(taken) == limit:
                return taken, True
        return taken, False

    def states(self, kind: int, members: Iterable[Tuple[str, ...]], t: int, unbound_too: bool) -> Iterator[Dict[str, Any]]:
        for parts in members:
            state = self.from_one(kind, parts, t, lambda proof: self.state(proof, t))
            if state.digest is not None or unbound_too:
                yield show(kind, parts, state)

    def changes(self, kind: int, members: Iterable[Tuple[str, ...]], since: int, t: int) -> Iterator[Dict[str, Any]]:
        for parts in members:
            old, new = self.from_one(kind, parts, t, lambda proof: (self.state(proof, min(since, t)), self.state(proof, t)))
            if old.digest != new.digest:
                yield {"from": show(kind, parts, old), "to": show(kind, parts, new)}

    def running(self, environment: str, workload: str, t: int) -> Iterator[Tuple[str, ...]]:
        environments = [(environment,)] if environment else self.members(ENVIRONMENTS, (), t)
        for parts in environments:
            for member in self.members(WORKLOADS_OF, parts, t):
                if workload in ("", member[3]):
                    yield member

    # The questions

    def derive(self) -> Dict[str, Any]:
        q = self.file.question
        check_question(q)
        return getattr(self, q["kind"])(q)

    def tag_at(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t, parts = self.moment(q["at_us"]), split_tag(q["tag"])
        state = self.from_one(TAG_SUBJECT, parts, t, lambda proof: self.state(proof, t))
        return {"as_of_us": t, "state": show(TAG_SUBJECT, parts, state)}

    def tag_history(self, q: Dict[str, Any]) -> Dict[str, Any]:
        return self.part(TAG_SUBJECT, split_tag(q["tag"]), q["part"])

    def sightings(self, q: Dict[str, Any]) -> Dict[str, Any]:
        check_digest(q["digest"])
        return self.part(DIGEST_SUBJECT, (q["digest"],), q["part"])

    def principals(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t = self.moment(q["at_us"])
        every = self.part(PRINCIPALS, (), {"since_us": 0, "until_us": t + 1, "newest_first": False, "limit": 0})
        known, set_by = Principals(), {}
        for version in every["versions"]:
            entry = self.entries[version["index"]]
            if entry.record.outcome != APPLIED:
                continue
            said = entry.statement.said
            known = known.after(said)
            require(entry.record.detail == known.summary(), f"entry {entry.index} says {entry.record.detail!r} of the principals")
            set_by.pop(said.name, None)
            if said.change == "principal":
                set_by[said.name] = entry.index
        return {"as_of_us": t, "principals": sorted(known.by_name), "digest": known.digest(), "set_by": set_by,
                "total": every["total"]}

    def tags_at(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t = self.moment(q["at_us"])
        members = self.members(TAGS_OF, split_repository(q["repository"]), t)
        states, is_cut = self.collect(self.states(TAG_SUBJECT, members, t, q["include_unbound"]), q["limit"])
        return {"as_of_us": t, "states": states, "is_cut": is_cut}

    def repositories_at(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t = self.moment(q["at_us"])
        members = self.members(REPOSITORIES, (), t)
        states, is_cut = self.collect(self.states(TAGS_OF, members, t, True), q["limit"])
        return {"as_of_us": t, "states": states, "is_cut": is_cut}

    def running_at(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t = self.moment(q["at_us"])
        members = self.running(q["environment"], q["workload"], t)
        states, is_cut = self.collect(self.states(WORKLOAD, members, t, q["include_stopped"]), q["limit"])
        return {"as_of_us": t, "states": states, "is_cut": is_cut}

    def repository_diff(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t = self.moment(q["to_us"])
        members = self.members(TAGS_OF, split_repository(q["repository"]), t)
        changes, is_cut = self.collect(self.changes(TAG_SUBJECT, members, q["from_us"], t), q["limit"])
        return {"as_of_us": t, "changes": changes, "is_cut": is_cut}

    def environment_diff(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t = self.moment(q["to_us"])
        members = self.members(WORKLOADS_OF, (q["environment"],), t)
        changes, is_cut = self.collect(self.changes(WORKLOAD, members, q["from_us"], t), q["limit"])
        return {"as_of_us": t, "changes": changes, "is_cut": is_cut}

    def policy_at(self, q: Dict[str, Any]) -> Dict[str, Any]:
        t = self.moment(q["at_us"])
        state = self.from_one(POLICY, (), t, lambda proof: self.state(proof, t))
        return {"as_of_us": t, "state": show(POLICY, (), state)}

    def entry(self, q: Dict[str, Any]) -> Dict[str, Any]:
        require(q["index"] in self.entries, f"entry {q['index']} is not shown")
        return {"as_of_us": None, "index": q["index"]}

    def leaf(self, q: Dict[str, Any]) -> Dict[str, Any]:
        require(re.fullmatch("[0-9a-f]{64}", q["hash"]) is not None, "the question's hash is not 64 digits of hex")
        index = next((e.index for e in self.entries.values() if e.leaf.hex() == q["hash"]), None)
        require(index is not None, "no entry with this leaf hash is shown")
        return {"as_of_us": None, "index": index}

    def inclusion(self, q: Dict[str, Any]) -> Dict[str, Any]:
        checkpoint = self.pages[0].checkpoint
        size = q["tree_size"] or checkpoint.size
        require(q["index"] in self.entries, f"entry {q['index']} is not shown")
        require(size <= checkpoint.size, "the tree asked for is larger than the checkpoint's")
        root = inclusion_root(q["index"], size, self.entries[q["index"]].leaf, self.file.path)
        check_growth(self.file.growth, Checkpoint(size, root), checkpoint)
        return {"as_of_us": None, "index": q["index"], "tree_size": size, "root": root.hex()}


def check_question(q: Dict[str, Any]) -> None:
    for name, value in {**q, **q.get("part", {})}.items():
        require(not name.endswith("_us") or value <= MAX_TIME_US, f"question: {name} is beyond the year 9999")
        if name in ("environment", "workload"):
            check_text(value, f"question: {name}", 0, 128)


def show(kind: int, parts: Tuple[str, ...], state: StateAt) -> Dict[str, Any]:
    name = "{}/{}:{}".format(*parts) if kind == TAG_SUBJECT else "the policy" if kind == POLICY else list(parts)
    return {"name": name, "digest": state.digest, "set_by": state.set_by, "at": state.at.index if state.at else None,
            "next": state.next.index if state.next else None, "total": state.total}


# Evidence files

PART = {"since_us": int, "until_us": int, "newest_first": bool, "limit": int}
QUESTIONS = {
    "tag_at": {"tag": str, "at_us": int},
    "tag_history": {"tag": str, "part": PART},
    "sightings": {"digest": str, "part": PART},
    "tags_at": {"repository": str, "at_us": int, "include_unbound": bool, "limit": int},
    "repositories_at": {"at_us": int, "limit": int},
    "running_at": {"environment": str, "workload": str, "at_us": int, "include_stopped": bool, "limit": int},
    "repository_diff": {"repository": str, "from_us": int, "to_us": int, "limit": int},
    "environment_diff": {"environment": str, "from_us": int, "to_us": int, "limit": int},
    "policy_at": {"at_us": int},
    "principals": {"at_us": int},
    "entry": {"index": int},
    "leaf": {"hash": str},
    "inclusion": {"index": int, "tree_size": int},
}
SUBJECT_FORM = {"key": str, "siblings": [str], "terminal": dict}
PAGE_FORM = {"checkpoint": str, "entries": [{"index": int, "entry": str}], "proof": [str], "subjects": [SUBJECT_FORM]}
CONTENT_FORM = {"question": dict, "pages": [PAGE_FORM], "growth": [{"older": int, "newer": int, "proof": [str]}], "path": [str]}
CONTENT_FORMS = {2: CONTENT_FORM, 3: {**CONTENT_FORM, "keys": PAGE_FORM}}
FILE_FORM = {"format": str, "version": int, "checksum": str, "content": dict}
TERMINALS = {
    "history": {"count": int, "root": str, "leaves": [{"version": int, "index": int, "effective": int}], "proof": [str]},
    "other": {"key": str, "count": int, "root": str},
    "empty": {},
}


@dataclass
class EvidenceFile:
    question: Dict[str, Any]
    pages: List[Page]
    growth: List[Growth]
    path: List[bytes]
    keys: Optional[Page] = None


def check_form(value: Any, form: Any, what: str) -> None:
    """Every field is there, and no other; numbers are unsigned and below 2^64. Puts the fields in the form's order."""
    if isinstance(form, list):
        require(isinstance(value, list), f"{what}: not a list")
        for n, item in enumerate(value):
            check_form(item, form[0], f"{what}[{n}]")
    elif isinstance(form, dict):
        require(isinstance(value, dict), f"{what}: not an object")
        for name in itertools.chain(form, value):
            require(name in form, f"{what}: unknown field {name}")
            require(name in value, f"{what}: {name} is missing")
        for name in form:
            check_form(value[name], form[name], f"{what}.{name}")
            value[name] = value.pop(name)
    else:
        require(type(value) is form, f"{what}: not of type {form.__name__}")
        require(form is not int or 0 <= value < 2**64, f"{what}: not between 0 and 2^64 - 1")


def unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    require(len(dict(pairs)) == len(pairs), "JSON: a field twice")
    return dict(pairs)


def read_evidence_file(text: str) -> EvidenceFile:
    try:
        require(len(text.encode()) <= 256 << 20, "an evidence file above 256 MiB")
        file = json.loads(text, object_pairs_hook=unique)
        json.dumps(file, ensure_ascii=False).encode()  # not so with half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise Refused(f"not JSON: {error}") from None
    require(isinstance(file, dict) and file.get("format") == "tagledger-evidence", "not a tagledger-evidence file")
    require(type(file.get("version")) is int and file["version"] in CONTENT_FORMS, f"an evidence file of version {file.get('version')}")
    check_form(file, FILE_FORM, "file")
    content = file["content"]
    check_form(content, CONTENT_FORMS[file["version"]], "content")
    question = content["question"]
    form = QUESTIONS.get(str(question.get("kind")))
    require(form is not None, f"question: {question.get('kind')} is unknown")
    check_form(question, {"kind": str, **form}, "question")
    require(len(content["pages"]) > 0, "an evidence file without pages")
    pages = [read_page(page) for page in content["pages"]]
    compact = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    require(file["checksum"] == "sha256:" + sha256(compact).hex(), "the checksum does not match: the file is damaged")
    growth = [Growth(g["older"], g["newer"], hashes(g["proof"], "growth")) for g in content["growth"]]
    keys = read_page(content["keys"]) if "keys" in content else None
    return EvidenceFile(question, pages, growth, hashes(content["path"], "path"), keys)


def read_page(page: Dict[str, Any]) -> Page:
    entries = [(e["index"], from_base64(e["entry"], f"entry {e['index']}")) for e in page["entries"]]
    return Page(page["checkpoint"], entries, hashes(page["proof"], "proof"), [read_subject(s) for s in page["subjects"]])


def read_subject(subject: Dict[str, Any]) -> SubjectProof:
    key, terminal = from_base64(subject["key"], "subject key", 32), subject["terminal"]
    kind = next(iter(terminal), "")
    require(len(terminal) == 1 and kind in TERMINALS, "terminal: neither history, other nor empty")
    check_form(terminal[kind], TERMINALS[kind], kind)
    proof, t = SubjectProof(key, hashes(subject["siblings"], "siblings")), terminal[kind]
    if kind == "history":
        require(t["count"] > 0, "subject proof: a count of 0")
        proof.count, proof.root = t["count"], from_base64(t["root"], "history root", 32)
        proof.leaves = [HistoryLeaf(**leaf) for leaf in t["leaves"]]
        proof.proof = hashes(t["proof"], "history proof")
    elif kind == "other":
        proof.other = OtherLeaf(from_base64(t["key"], "other key", 32), t["count"], from_base64(t["root"], "other root", 32))
    return proof


def hashes(texts: Iterable[str], what: str) -> List[bytes]:
    return [from_base64(text, what, 32) for text in texts]


# Single-entry proofs

def read_tlog_proof(text: str) -> Page:
    head, gap, note = text.partition("\n\n")
    lines = head.split("\n")
    require(gap != "" and lines[0] == "c2sp.org/tlog-proof@v1", "not a tlog-proof")
    require(len(lines) >= 3 and lines[1].startswith("extra ") and lines[2].startswith("index "),
            "tlog-proof: extra or index is missing")
    index = decimal(lines[2][len("index "):], "tlog-proof: index")
    path = hashes(lines[3:], "tlog-proof: a hash")
    return Page(note, [(index, from_base64(lines[1][len("extra "):], "tlog-proof: extra"))], path, [])


def check_tlog_proof(text: str, vkey: VKey) -> Dict[str, Any]:
    page = read_tlog_proof(text)
    check_entries(page, vkey)
    (index, entry), = page.entries.items()
    verify_inclusion(index, page.checkpoint.size, entry.leaf, page.proof, page.checkpoint.root)
    return {"as_of_us": None, "index": index}


def is_tlog_proof(text: str) -> bool:
    return text.startswith("c2sp.org/tlog-proof")


def check_evidence_file(text: str, vkey: VKey) -> Dict[str, Any]:
    return check_tlog_proof(text, vkey) if is_tlog_proof(text) else Answer(read_evidence_file(text), vkey).derive()


# ---------------------------------------------------------------------------------------------------------------------
# 18. Audit

KINDS_TO_GRANT = {name: number for number, (name, _) in enumerate(KINDS, 1) if number <= 6}


class Principals:
    """Who may state what (section "Authority"). Never changed: a change makes another."""

    def __init__(self, by_name: Optional[Dict[str, SimpleNamespace]] = None):
        self.by_name = by_name or {}  # the change that made each what it is

    def after(self, said: SimpleNamespace) -> "Principals":
        others = {name: change for name, change in self.by_name.items() if name != said.name}
        if said.change == "revocation":
            require(said.name in self.by_name, f"{said.name!r} is not known, and so can't be revoked")
            by_name = others
        else:
            for own, other in ((credentials(said.principal), credentials(c.principal)) for c in others.values()):
                require(not own & other, f"{said.name!r} has a credential of another principal")
            by_name = {**others, said.name: said}
        require(len(by_name) <= 1000, "more than 1,000 principals")
        require(any(ADMIN in c.principal.roles for c in by_name.values()), "nobody is left with the role admin")
        return Principals(by_name)

    def digest(self) -> str:
        changes = [change.raw for _, change in sorted(self.by_name.items())]
        return "sha256:" + sha256(b"tagledger.v1.principals\n", *(u32(len(raw)) + raw for raw in changes)).hex()

    def summary(self) -> str:
        return f"{len(self.by_name)} principal{'' if len(self.by_name) == 1 else 's'}, {self.digest()}"

    def judge(self, r: SimpleNamespace, s: SimpleNamespace) -> None:
        """May this principal state this, in this way?"""
        if not self.by_name:
            return
        who = f"principal {r.principal!r}"
        if r.principal.startswith("webhook/"):
            require(r.assurance in (CLAIMED, CONFIRMED), f"{who}: assurance {r.assurance}")
            require(s.kind in ("tag_push", "tag_delete", "manifest_delete", "tag_observed"), f"{who} states a {s.kind}")
            return
        require(r.principal in self.by_name, f"{who} is not known")
        p = self.by_name[r.principal].principal
        if r.assurance == SIGNED:
            keys = {producer_key_id(vkey.key): vkey.key for vkey in map(parse_vkey, p.keys)}
            require(r.producer.key_id in keys, f"{who} has no key {r.producer.key_id}")
            require(verify_producer(keys[r.producer.key_id], r.producer.signature, r.statement), f"{who}: the signature")
        else:
            require(r.assurance == AUTHENTICATED and SIGNATURE not in p.requires, f"{who}: assurance {r.assurance}")
        require(p.requires != [SIGNATURE] or s.event_id, f"{who} shows nothing but signatures, and this has no event_id")
        if s.kind not in KINDS_TO_GRANT:
            require(ADMIN in p.roles, f"{who} is no admin")
            return
        require(WRITER in p.roles or SCANNER in p.roles and s.kind == "tag_observed", f"{who} may state no {s.kind}")
        place = s.said.image if s.kind == "deployment" else s.said
        place = f"{place.registry}/{place.repository}" if s.kind != "attestation" else None
        require(any(covers(grant, KINDS_TO_GRANT[s.kind], place) for grant in p.grants), f"no grant of {who} covers this")


def credentials(p: SimpleNamespace) -> set:
    """What is one principal's alone."""
    keys = {producer_key_id(parse_vkey(key).key) for key in p.keys}
    return {(TOKEN, t) for t in p.token_sha256} | {(CERTIFICATE, n) for n in p.certificate_names} | {(SIGNATURE, k) for k in keys}


def covers(grant: SimpleNamespace, kind: int, place: Optional[str]) -> bool:
    covers_place = place is None or any(Glob(pattern).matches(place) for pattern in grant.repositories)
    return (not grant.kinds or kind in grant.kinds) and covers_place


class Binding(NamedTuple):
    digest: str  # bound to, or last bound to
    bound: bool
    by: int  # index of the entry that set or removed it


class Decision(NamedTuple):
    outcome: int
    rule: str = ""
    detail: str = ""
    tags: Tuple[str, ...] = ()  # of a ManifestDelete: those it concerns


@dataclass
class History:
    tree: Tree = field(default_factory=Tree)
    effective: int = 0


TAGS_PER_ENTRY = 256


class Hold(NamedTuple):
    """Who is about to change a tag: the first entry of the intent, its principal, the kind of its statement, and the digest
    that the tag is to have."""
    by: int
    principal: str
    kind: str
    digest: str  # empty: the tag is to go


def allowed(said: SimpleNamespace) -> int:
    return NOTED if said.disposition == INTENDED else APPLIED


def forbidden(said: SimpleNamespace) -> int:
    return DENIED if said.disposition in (REQUESTED, INTENDED) else VIOLATION


class Audit:
    """Reads a log from its first entry and does again what the ledger did."""

    def __init__(self, first: VKey):
        self.keys = chain(first)
        self.tree = Tree()
        self.last_time = -1
        self.last_commitment: Optional[Entry] = None
        self.commitments = 0
        self.tags: Dict[Tuple[str, ...], Binding] = {}
        self.bound: Dict[Tuple[str, str, str], set] = {}  # registry, repository, digest: the tags bound to it
        self.carried: Dict[Tuple[str, str, str], set] = {}  # the same of tags that are or ever were
        self.holds: Dict[Tuple[str, ...], Hold] = {}  # section 12
        self.workloads: Dict[Tuple[str, ...], str] = {}
        self.policy: Optional[Policy] = None
        self.principals = Principals()
        self.events: Dict[Tuple[str, str], int] = {}
        self.histories: Dict[bytes, History] = {}
        self.map = SubjectMap()
        self.dirty: set = set()  # keys whose histories grew since the last commitment
        self.rest: List[Tuple[bytes, Decision]] = []  # of a ManifestDelete of many tags: the records still to come

    def feed(self, data: bytes) -> Entry:
        try:
            return self._feed(data)
        except Refused as refused:
            refused.index = self.tree.size
            raise

    def _feed(self, data: bytes) -> Entry:
        index = self.tree.size
        entry = decode_entry(data, self.keys)
        require(entry.index == index, f"it says that it is entry {entry.index}")
        require(entry.recorded_at_us > self.last_time, "its time is not above that of the entry before")
        if entry.commitment:
            require(not self.rest, "the rest of a ManifestDelete is missing")
            self.commitment(entry)
        else:
            require(index > 0, "entry 0 is no commitment")
            require(self.keys.links[-1][0] != index + 1, "the entry before changes the key, and this is no commitment")
            self.record(entry)
        self.last_time = entry.recorded_at_us
        self.tree.append(entry.leaf)
        return entry

    def end(self, checkpoint: Checkpoint) -> None:
        require(self.tree.size == checkpoint.size, f"{self.tree.size} entries, and a checkpoint of size {checkpoint.size}")
        require(self.last_commitment is not None and self.last_commitment.index == checkpoint.size - 1,
                "the last entry of the checkpoint is no commitment")
        require(self.tree.root() == checkpoint.root, "the root of the tree is not the checkpoint's")

    def commitment(self, entry: Entry) -> None:
        for key in self.dirty:
            tree = self.histories[key].tree
            self.map.put(key, map_leaf(key, tree.size, tree.root()))
        self.dirty.clear()
        said = entry.commitment
        require(said.map_size == self.map.size, f"map_size is {said.map_size}, but there are {self.map.size} subjects")
        require(said.map_root == self.map.root(), "map_root is not the root of the map")
        self.last_commitment, self.commitments = entry, self.commitments + 1

    def record(self, entry: Entry) -> None:
        r, s = entry.record, entry.statement
        check_text(r.principal, "principal", 1, 128)
        require((r.producer is not None) == (r.assurance == SIGNED), "a producer is there if and only if the assurance is SIGNED")
        require(r.producer is None or re.fullmatch("[0-9a-f]{16}", r.producer.key_id) is not None, "the producer's key id")
        if self.rest:
            data, decision = self.rest.pop(0)
            require((r.statement, r.principal, r.assurance, r.producer) == data, "the rest of a ManifestDelete is missing")
        else:
            self.must_not_wait(s)
            self.principals.judge(r, s)
            self.speaker = r.principal
            decision = self.decide(s)
            self.first = entry.index
            if s.event_id:
                first = self.events.setdefault((r.principal, s.event_id), entry.index)
                require(first == entry.index, f"{r.principal!r} used event id {s.event_id!r} in entry {first} already")
            if len(decision.tags) > TAGS_PER_ENTRY:
                tags = decision.tags
                chunks = [tags[i:i + TAGS_PER_ENTRY] for i in range(0, len(tags), TAGS_PER_ENTRY)]
                decision, *rest = [decision._replace(tags=chunk) for chunk in chunks]
                self.rest = [((r.statement, r.principal, r.assurance, r.producer), d) for d in rest]
        require(r.outcome == decision.outcome, f"its outcome is {r.outcome}, and should be {decision.outcome}")
        require(r.rule == decision.rule, f"its rule is {r.rule!r}, and should be {decision.rule!r}")
        require(r.detail == decision.detail, f"its detail is {r.detail!r}, and should be {decision.detail!r}")
        said = [(subject.kind, subject.version, subject.name) for subject in r.subjects]
        expected = list(self.subjects(s, decision.tags))
        require(said == [(kind, version, name) for kind, version, name, _ in expected],
                f"its subjects are {said}, and should be {[e[:3] for e in expected]}")
        for kind, _, _, parts in expected:
            key = subject_key(kind, parts)
            history = self.histories.setdefault(key, History())
            does, digest = effect(kind, s, r.outcome)
            history.effective = effective_after(does, entry.index, history.effective)
            history.tree.append(history_leaf(entry.index, entry.leaf, history.effective))
            self.dirty.add(key)
            if kind == TAG_SUBJECT:
                self.hold_tag(parts, s, r.outcome)
                self.bind_tag(parts, does, digest, entry.index)
            elif kind == WORKLOAD and does == "sets":
                self.workloads[parts] = digest
            elif kind == WORKLOAD and does == "clears":
                del self.workloads[parts]
            elif kind == POLICY and does == "sets":
                self.policy = parse_policy(s.said.policy)
            elif kind == PRINCIPALS and does == "sets":
                self.principals = self.principals.after(s.said)
            elif kind == KEYS and does == "sets":
                self.keys = self.keys.after(s.said, entry.index)

    def bind_tag(self, tag: Tuple[str, ...], does: str, digest: Optional[str], index: int) -> None:
        if does not in ("sets", "clears"):
            return
        old = self.tags.get(tag)
        if old and old.bound:
            self.bound[(*tag[:2], old.digest)].discard(tag[2])
        if does == "sets":
            self.tags[tag] = Binding(digest, True, index)
            self.bound.setdefault((*tag[:2], digest), set()).add(tag[2])
            self.carried.setdefault((*tag[:2], digest), set()).add(tag[2])
        else:
            self.tags[tag] = Binding(old.digest if old else "", False, index)

    # 12. Holds

    def must_not_wait(self, s: SimpleNamespace) -> None:
        """Nothing is asked or intended about a tag that is held."""
        said = s.said
        if s.kind not in ("tag_push", "tag_delete", "manifest_delete") or said.disposition not in (REQUESTED, INTENDED):
            return
        tags = self.bound.get((said.registry, said.repository, said.digest), ()) if s.kind == "manifest_delete" else (said.tag,)
        for tag in sorted(tags):
            hold = self.holds.get((said.registry, said.repository, tag))
            require(hold is None, f'it asks about the tag "{tag}", which an intent held')

    def settled(self, tag: Tuple[str, ...], kind: str, said: SimpleNamespace) -> bool:
        """Whether a push or a delete says what became of the intent that holds the tag."""
        hold = self.holds.get(tag)
        return hold is not None and hold == Hold(said.settles - 1, self.speaker, kind,
                                                 said.digest if kind == "tag_push" else "")

    def hold_tag(self, tag: Tuple[str, ...], s: SimpleNamespace, outcome: int) -> None:
        hold, said, was = self.holds.get(tag), s.said, self.tags.get(tag)
        if s.kind == "tag_observed":
            if hold and hold.by == said.checks_entry - 1:
                del self.holds[tag]
        elif s.kind in ("tag_push", "tag_delete", "manifest_delete"):
            if outcome == NOTED:
                self.holds[tag] = Hold(self.first, self.speaker, s.kind, said.digest if s.kind == "tag_push" else "")
            elif self.settled(tag, s.kind, said):
                del self.holds[tag]
        hold = self.holds.get(tag)
        does, digest = effect(TAG_SUBJECT, s, outcome)
        if hold and hold.kind == "manifest_delete" and does in ("sets", "clears"):
            del self.holds[tag]

    # 11. Which subjects, in which order

    def subjects(self, s: SimpleNamespace, tags: Sequence[str]) -> Iterator[Tuple[int, int, str, Tuple[str, ...]]]:
        """Kind, version, name and components of the subjects of the next record."""
        named = list(self.named_subjects(s, tags))
        yield from named
        seen = {parts for kind, _, _, parts in named if kind == DIGEST_SUBJECT}
        for kind, _, _, parts in named:
            digest = linked_digest(parts[2]) if kind == TAG_SUBJECT else None
            if digest and (digest,) not in seen:
                seen.add((digest,))
                history = self.histories.get(subject_key(DIGEST_SUBJECT, (digest,)))
                yield DIGEST_SUBJECT, history.tree.size if history else 0, digest, (digest,)

    def named_subjects(self, s: SimpleNamespace, tags: Sequence[str]) -> Iterator[Tuple[int, int, str, Tuple[str, ...]]]:

        def subject(kind: int, name: str = "") -> Tuple[int, int, str, Tuple[str, ...]]:
            parts = components(kind, s, name)
            history = self.histories.get(subject_key(kind, parts))
            return kind, history.tree.size if history else 0, name, parts

        def firsts(kind: int, *above: int) -> Iterator[Tuple[int, int, str, Tuple[str, ...]]]:
            """What follows a subject that is there for the first time."""
            for next_kind in above:
                if subject(kind)[1] > 0:
                    return
                kind = next_kind
                yield subject(kind)

        if s.kind == "policy_change":
            yield subject(POLICY)
        elif s.kind == "key_change":
            yield subject(KEYS)
        elif s.kind == "principal_change":
            yield subject(PRINCIPALS)
        elif s.kind == "attestation":
            yield subject(DIGEST_SUBJECT)
        elif s.kind == "manifest_delete":
            yield subject(DIGEST_SUBJECT)
            for tag in tags:
                yield subject(TAG_SUBJECT, tag)
        elif s.kind == "deployment":
            yield subject(WORKLOAD)
            yield subject(DIGEST_SUBJECT)
            if s.said.image.tag:
                yield subject(TAG_SUBJECT)
                yield from firsts(TAG_SUBJECT, TAGS_OF, REPOSITORIES)
            yield from firsts(WORKLOAD, WORKLOADS_OF, ENVIRONMENTS)
        else:
            yield subject(TAG_SUBJECT)
            if s.kind == "tag_push" or s.kind == "tag_observed" and s.said.digest:
                yield subject(DIGEST_SUBJECT)
            yield from firsts(TAG_SUBJECT, TAGS_OF, REPOSITORIES)

    # 12. Outcomes, and appendix C: rule and detail

    def decide(self, s: SimpleNamespace) -> Decision:
        return getattr(self, "decide_" + s.kind)(s.said)

    def forbidden(self, tag: Tuple[str, ...], to: str) -> Optional[Tuple[str, str]]:
        """Rule and detail, if the tag may not go to where it is not at already: a digest, or with "" nothing."""
        was, name = self.tags.get(tag), tag[2]
        if was and was.bound:
            change = OVERWRITE if to else DELETE
        elif not to:
            return None
        else:
            change = RECREATE if was and was.digest != to else CREATE
        carried = self.carried.get((*tag[:2], to), ())
        found = self.policy.forbids(tag, change, carried) if self.policy else None
        if found is None:
            return None
        rule, lacks_promotion = found
        if lacks_promotion:
            return rule, f'tag "{name}" may not be bound to {to}: no tag that it is promoted from carried that before'
        return rule, {
            CREATE: lambda: f'tag "{name}" may not be created',
            OVERWRITE: lambda: f'tag "{name}" is immutable since entry {was.by} bound it to {was.digest}',
            DELETE: lambda: f'tag "{name}" may not be deleted since entry {was.by} bound it to {was.digest}',
            RECREATE: lambda: f'tag "{name}" is immutable: it may only come back as {was.digest}, '
                              f"which entry {was.by} unbound",
        }[change]()

    @staticmethod
    def drift(was: Binding) -> Decision:
        return Decision(DRIFT, "", f"recorded is {was.digest}, by entry {was.by}" if was.bound
                        else f"recorded is no binding, since entry {was.by}")

    def decide_tag_push(self, said: SimpleNamespace) -> Decision:
        tag = (said.registry, said.repository, said.tag)
        was = self.tags.get(tag)
        if said.disposition == REFUSED:
            return Decision(FAILED)
        if was and was.bound and was.digest == said.digest:
            return Decision(UNCHANGED)
        if self.settled(tag, "tag_push", said):
            return Decision(allowed(said))
        rule = self.forbidden(tag, said.digest)
        return Decision(forbidden(said), *rule) if rule else Decision(allowed(said))

    def decide_tag_delete(self, said: SimpleNamespace) -> Decision:
        tag = (said.registry, said.repository, said.tag)
        was = self.tags.get(tag)
        if said.disposition == REFUSED:
            return Decision(FAILED)
        if was is None:
            return Decision(UNCHANGED, "", "never bound")
        if not was.bound:
            return Decision(UNCHANGED, "", f"already unbound by entry {was.by}")
        if self.settled(tag, "tag_delete", said):
            return Decision(allowed(said))
        rule = self.forbidden(tag, "")
        return Decision(forbidden(said), *rule) if rule else Decision(allowed(said))

    def decide_manifest_delete(self, said: SimpleNamespace) -> Decision:
        tags = tuple(sorted(self.bound.get((said.registry, said.repository, said.digest), ())))
        if said.disposition == REFUSED:
            return Decision(FAILED, tags=tags)
        if not tags:
            return Decision(UNCHANGED, "", "no tag is bound to it")
        for tag in tags:
            full = (said.registry, said.repository, tag)
            rule = None if self.settled(full, "manifest_delete", said) else self.forbidden(full, "")
            if rule:
                return Decision(forbidden(said), *rule, tags)
        return Decision(allowed(said), tags=tags)

    def decide_tag_observed(self, said: SimpleNamespace) -> Decision:
        tag = (said.registry, said.repository, said.tag)
        was = self.tags.get(tag)
        if (was.digest if was and was.bound else "") == said.digest:
            return Decision(UNCHANGED)
        hold = self.holds.get(tag)
        if hold and hold.digest == said.digest:
            return Decision(APPLIED)
        rule = self.forbidden(tag, said.digest)
        if rule:
            return Decision(VIOLATION, *rule)
        return self.drift(was) if was else Decision(APPLIED)

    def decide_deployment(self, said: SimpleNamespace) -> Decision:
        image = said.image
        was = self.tags.get((image.registry, image.repository, image.tag)) if image.tag else None
        if was and not (was.bound and was.digest == image.digest) and said.phase != STOPPED:
            return self.drift(was)
        runs = self.workloads.get(tuple(getattr(said, f) for f in WORKLOAD_FIELDS)) == image.digest
        return Decision(APPLIED if runs == (said.phase == STOPPED) else UNCHANGED)

    def decide_attestation(self, said: SimpleNamespace) -> Decision:
        return Decision(NOTED)

    def decide_principal_change(self, said: SimpleNamespace) -> Decision:
        known = self.principals.by_name.get(said.name)
        if known and known.raw == said.raw:
            return Decision(UNCHANGED)
        return Decision(APPLIED, "", self.principals.after(said).summary())

    def decide_key_change(self, said: SimpleNamespace) -> Decision:
        return Decision(APPLIED if said.next.origin == self.keys.origin else NOTED)

    def decide_policy_change(self, said: SimpleNamespace) -> Decision:
        if self.policy and self.policy.text == said.policy:
            return Decision(UNCHANGED)
        in_force = "sha256:" + sha256((self.policy.text if self.policy else "").encode()).hex()
        if said.replaces not in ("", in_force):
            return Decision(DENIED, "", f"the policy in force is {in_force}, not {said.replaces}")
        return Decision(APPLIED)


def audit(entries: Iterable[bytes], note: str, vkey: VKey) -> Audit:
    """Audits a whole log, from entry 0 up to a checkpoint. Any key that the log had may be the trusted one."""
    entries = list(entries)
    state = Audit(first_key(entries, vkey))
    for data in entries:
        state.feed(data)
    require(any(known == vkey for _, known in state.keys.links), "the trusted key is none of the log's")
    state.end(open_by_newest(note, state.keys))
    return state


def first_key(entries: Iterable[bytes], trusted: VKey) -> VKey:
    """The key that the first change replaces; the trusted one, where none was changed. The audit tells whether that is so."""
    for data in entries:
        try:
            outer = ENTRY.decode(data)
            said = STATEMENT.decode(RECORD.decode(outer.record).statement) if outer.body == "record" else None
            if said is not None and said.kind == "key_change":
                before = parse_vkey(said.key_change.replaces)
                if before.origin == trusted.origin:
                    return before
        except Refused:
            break
    return trusted


# ---------------------------------------------------------------------------------------------------------------------
# 19. Misbehaviour

def against(texts: Sequence[str], vkey: VKey) -> Optional[str]:
    """The first contradiction between evidence files; None: there is none. The evidence of each file has to hold, whether
    or not it answers the question."""
    pages: List[Page] = []
    files = [None if is_tlog_proof(text) else read_evidence_file(text) for text in texts]
    # One that was saved before the key changed holds under the keys that the other shows.
    chains = [follow(file.keys, vkey) for file in files if file]
    keys = max(chains, key=lambda keys: len(keys.links), default=chain(vkey))
    for one in chains:
        # Of a key alone it is not known what came before it.
        is_part = len(one.links) == 1 and any(known == one.links[0][1] for _, known in keys.links)
        if not is_part and one.links != keys.links[:len(one.links)]:
            return "two chains of keys that part"
    for text, file in zip(texts, files):
        own = file.pages if file else [read_tlog_proof(text)]
        for page in own:
            check_entries(page, keys)
        for page in own:
            check_subjects(page, {**{i: e for other in own for i, e in other.entries.items()}, **page.entries})
        pages += own
    return next(contradictions(pages), None)


def tags_of(entry: Entry) -> List[str]:
    return [components(s.kind, entry.statement, s.name)[2] for s in entry.subjects.values() if s.kind == TAG_SUBJECT]


def links_due(entry: Entry) -> set:
    """The digests that the referrer tags of a record hang on, but for the one that its statement names."""
    said = entry.statement.said
    named = (said.image if entry.statement.kind == "deployment" else said)
    return {linked_digest(tag) for tag in tags_of(entry)} - {None, getattr(named, "digest", "")}


def kinds_due(entry: Entry) -> set:
    """The kinds of subjects that section 11 gives a record: those of its statement, and the catalogues of what is new."""
    said, what = entry.statement.said, entry.statement.kind
    first = {subject.kind for subject in entry.subjects.values() if subject.version == 0}
    due = {"manifest_delete": {DIGEST_SUBJECT}, "attestation": {DIGEST_SUBJECT}, "policy_change": {POLICY},
           "principal_change": {PRINCIPALS}, "key_change": {KEYS},
           "deployment": {WORKLOAD, DIGEST_SUBJECT}}.get(what, {TAG_SUBJECT})
    if what in ("tag_push", "tag_observed") and said.digest:
        due = due | {DIGEST_SUBJECT}
    if what == "deployment" and said.image.tag:
        due = due | {TAG_SUBJECT}
    if what == "manifest_delete":  # which tags it concerns, only the record says
        due = due | ({TAG_SUBJECT} & {subject.kind for subject in entry.subjects.values()})
    if any(linked_digest(tag) for tag in tags_of(entry)):
        due = due | {DIGEST_SUBJECT}
    for member, catalogue in ((TAG_SUBJECT, TAGS_OF), (TAGS_OF, REPOSITORIES), (WORKLOAD, WORKLOADS_OF),
                              (WORKLOADS_OF, ENVIRONMENTS)):
        if member in first:
            due = due | {catalogue}
    return due


def contradictions(pages: Sequence[Page]) -> Iterator[str]:
    # two checkpoints of one size with different roots
    roots: Dict[int, bytes] = {}
    for page in pages:
        if roots.setdefault(page.checkpoint.size, page.checkpoint.root) != page.checkpoint.root:
            yield f"a fork: two checkpoints of size {page.checkpoint.size} with different roots"
    # two entries with one index and different bytes
    entries: Dict[bytes, Entry] = {entry.data: entry for page in pages for entry in page.entries.values()}
    by_index: Dict[int, Entry] = {}
    for entry in entries.values():
        if by_index.setdefault(entry.index, entry) is not entry:
            yield f"two entries with the index {entry.index}"
    # an entry whose record does not name exactly the subjects that section 11 says
    for entry in entries.values():
        links = [s.name for s in entry.subjects.values() if s.kind == DIGEST_SUBJECT and s.name] if entry.record else []
        if entry.record and (sorted(links) != sorted(links_due(entry))
                             or {subject.kind for subject in entry.subjects.values()} != kinds_due(entry)):
            yield f"entry {entry.index} does not name exactly the subjects that it belongs to"
    # two entries that name one subject with one version, or with versions in the other order than their indexes
    named: Dict[bytes, List[Tuple[int, int]]] = {}
    for entry in entries.values():
        for key, subject in entry.subjects.items():
            named.setdefault(key, []).append((subject.version, entry.index))
    for key, places in named.items():
        places.sort()
        for (v, i), (w, j) in zip(places, places[1:]):
            if v == w and i != j:
                yield f"entries {i} and {j} both have version {v} of subject {key.hex()}"
            if v < w and i >= j:
                yield f"subject {key.hex()} has version {v} in entry {i}, and version {w} in entry {j}"
    # an entry that a subject proof under a later commitment leaves out, or has elsewhere
    proofs = [(page.last(), proof) for page in pages for proof in page.subjects]
    for commitment, proof in proofs:
        under = f"the proof of subject {proof.key.hex()} under commitment {commitment.index}"
        for v, i in named.get(proof.key, []):
            if i >= commitment.index:
                continue
            if proof.count <= v:
                yield f"entry {i} has version {v}, which {under} does not have"
            at = bisect.bisect_left(proof.leaves, (v,))  # version v and its neighbours; the others rise with them
            for leaf in proof.leaves[max(at - 1, 0):at + 2]:
                if (leaf.version < v) != (leaf.index < i) or (leaf.version > v) != (leaf.index > i):
                    yield f"entry {i} has version {v}, but {under} has version {leaf.version} in entry {leaf.index}"
    # two subject proofs, of which the later has a smaller count, or in which one version's leaves differ
    of_key: Dict[bytes, List[Tuple[Entry, SubjectProof]]] = {}
    for commitment, proof in proofs:
        of_key.setdefault(proof.key, []).append((commitment, proof))
    for key, found in of_key.items():
        found.sort(key=lambda f: (f[0].index, f[1].count))
        leaves: Dict[int, HistoryLeaf] = {}
        for (earlier, old), (later, new) in zip(found, found[1:]):
            if new.count < old.count:
                yield (f"subject {key.hex()} has {old.count} entries under commitment {earlier.index}, "
                       f"and {new.count} under {later.index}")
            if new.count == old.count and new.root != old.root:
                yield f"subject {key.hex()} has two histories of {new.count} entries"
        for _, proof in found:
            for leaf in proof.leaves:
                if leaves.setdefault(leaf.version, leaf) != leaf:
                    yield f"subject {key.hex()} has two leaves of version {leaf.version}"


# ---------------------------------------------------------------------------------------------------------------------
# Appendix B. The policy

def parse_policy(text: str) -> Policy:
    try:
        return read_policy(text)
    except PolicyRefused as refused:
        raise Refused(f"policy: {refused}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Reading a log, section 10

def fetch(source: str, path: str) -> bytes:
    if source.startswith(("http://", "https://")):
        with urllib.request.urlopen(source.rstrip("/") + path, timeout=60) as response:
            return response.read()
    with open(os.path.join(source, path.lstrip("/")), "rb") as file:
        return file.read()


def read_entries(source: str, size: int) -> Iterator[bytes]:
    for begin in range(0, size, 256):
        width = min(256, size - begin)
        yield from split_bundle(fetch(source, Tile("entries", begin // 256, width).path()), width)


def utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("not UTF-8") from None


# ---------------------------------------------------------------------------------------------------------------------
# The project's vectors

def refuses(check: Callable[[], Any]) -> bool:
    try:
        check()
    except Refused:
        return True
    return False


class Vectors:
    """Runs the cases of the files in a directory, and names those that come out otherwise than the file says."""

    def __init__(self, directory: str):
        self.directory, self.cases = directory, 0
        self.wrong: List[str] = []
        self.vkey = parse_vkey(self.load("keys")["ledger"]["vkey"])
        self.producer = bytes.fromhex(self.load("keys")["producer"]["public_key"])

    def load(self, name: str) -> Dict[str, Any]:
        with open(os.path.join(self.directory, name + ".json"), encoding="utf-8") as file:
            return json.load(file)

    def run(self) -> bool:
        fine = True
        for name in ("keys", "merkle", "subjects", "statements", "policy", "log", "tiles", "evidence", "replay", "succession"):
            if not os.path.exists(os.path.join(self.directory, name + ".json")):
                print(f"{name}.json: not there")
                continue
            self.cases, self.wrong = 0, []
            getattr(self, name)(self.load(name))
            print(f"{name}.json: {self.cases} cases, {len(self.wrong)} wrong")
            for what in self.wrong:
                print(f"  WRONG: {what}")
            fine = fine and not self.wrong
        return fine

    def same(self, what: str, got: Any, expected: Any) -> None:
        self.cases += 1
        if got != expected:
            self.wrong.append(f"{what}: got {got!r}, expected {expected!r}")

    def valid(self, what: str, check: Callable[[], Any]) -> Any:
        self.cases += 1
        try:
            return check()
        except Refused as refused:
            self.wrong.append(f"{what}: refused: {refused}")

    def refused(self, what: str, check: Callable[[], Any]) -> None:
        self.cases += 1
        if not refuses(check):
            self.wrong.append(f"{what}: not refused")

    def policy(self, file: Dict[str, Any]) -> None:
        for case in file["policies"]:
            policy = self.valid(case["name"], lambda: parse_policy(case["text"]))
            if policy is None:
                continue
            self.same(f"{case['name']}: digest", "sha256:" + sha256(case["text"].encode()).hex(), case["digest"])
            for decision in case["decisions"]:
                found = policy.forbids(split_tag(decision["tag"]), decision["change"], decision["carried"])
                expected = (decision["rule"], decision["lacks_promotion"])
                self.same(f"{case['name']}: {decision['change']} {decision['tag']}", found or (None, False), expected)
        for case in file["refused"]:
            self.refused(case["name"], lambda: parse_policy(case["text"]))

    def keys(self, file: Dict[str, Any]) -> None:
        ledger, producer = file["ledger"], file["producer"]
        self.same("vkey", parse_vkey(ledger["vkey"]),
                  VKey(ledger["origin"], bytes.fromhex(ledger["key_hash"]), bytes.fromhex(ledger["public_key"])))
        self.same("key id", producer_key_id(bytes.fromhex(producer["public_key"])), producer["key_id"])
        for case in file["refused_vkeys"]:
            self.refused(case["reason"], lambda: parse_vkey(case["vkey"]))

    def succession(self, file: Dict[str, Any]) -> None:
        for data in file["statements"]["valid"]:
            self.valid("a change of the key", lambda: decode_statement(bytes.fromhex(data)))
        for case in file["statements"]["refused"]:
            self.refused(case["reason"], lambda: decode_statement(bytes.fromhex(case["statement"])))
        for case in file["evidence"]:
            check = lambda: check_evidence_file(case["file"], parse_vkey(case["vkey"]))
            (self.valid if case["valid"] else self.refused)(case["name"], check)
        for case in file["against"]:
            found = self.valid(case["name"], lambda: (against(case["files"], parse_vkey(case["vkey"])),))
            if found is not None:
                self.same(case["name"], found[0] is not None, case["contradiction"])
        for case in file["logs"]:
            entries = [from_base64(entry, "entry") for entry in case["entries"]]
            # Whichever key is trusted: the log says which was the first.
            for vkey in [link["vkey"] for link in file["chain"]]:
                try:
                    state = audit(entries, case["checkpoint"], parse_vkey(vkey))
                    found = [(first, key) for first, key in state.keys.links]
                    self.same(case["name"], found, [(k["from"], parse_vkey(k["vkey"])) for k in file["chain"]])
                    self.same(case["name"], True, case["valid"])
                except Refused as refused:
                    self.same(f"{case['name']}: {refused}", refused.index, case.get("index"))

    def merkle(self, file: Dict[str, Any]) -> None:
        h, tree = bytes.fromhex, Tree()
        for n, root in enumerate(file["roots"]):
            self.same(f"root {n}", tree.root().hex(), root)
            if n < len(file["leaves"]):
                leaf = leaf_hash(h(file["leaves"][n]["leaf"]))
                self.same(f"leaf {n}", leaf.hex(), file["leaves"][n]["hash"])
                tree.append(leaf)
        self.same("node", node(h(file["node"]["left"]), h(file["node"]["right"])).hex(), file["node"]["hash"])
        checks: Dict[str, Callable[[Dict[str, Any]], None]] = {
            "inclusion": lambda c: verify_inclusion(c["index"], c["size"], h(c["leaf_hash"]), [*map(h, c["path"])], h(c["root"])),
            "consistency": lambda c: verify_consistency(c["first"], c["second"], h(c["first_root"]), h(c["second_root"]),
                                                        [*map(h, c["path"])]),
            "multi": lambda c: verify_multi([(leaf["index"], h(leaf["leaf_hash"])) for leaf in c["leaves"]], c["size"],
                                            [*map(h, c["proof"])], h(c["root"])),
        }
        for name, check in checks.items():
            for n, case in enumerate(file[name]["valid"]):
                self.valid(f"{name} {n}", lambda: check(case))
            for case in file[name]["refused"]:
                self.refused(f"{name}: {case['reason']}", lambda: check(case))

    def subjects(self, file: Dict[str, Any]) -> None:
        for case in file["subjects"]:
            self.same(str(case["components"]), subject_key(case["number"], tuple(case["components"])).hex(), case["key"])

    def statements(self, file: Dict[str, Any]) -> None:
        def said(value: Any) -> Any:
            """A decoded message as the file writes it: without fields at their default."""
            if isinstance(value, list):
                return [vars(v) if hasattr(v, "key") else said(v) for v in value]
            if isinstance(value, bytes):
                return value.hex()
            if isinstance(value, SimpleNamespace):
                beside = ("kind", "said", "change", "raw", "next", "before")
                return {k: said(v) for k, v in vars(value).items() if k not in beside and v not in (0, "", None, [])}
            return value

        for case in file["valid"]:
            data = bytes.fromhex(case["statement"])
            statement = self.valid(str(case["fields"]), lambda: decode_statement(data))
            self.same("fields", said(statement), case["fields"])
            self.same("signature", verify_producer(self.producer, bytes.fromhex(case["signature"]), data), True)
        for case in file["refused"]:
            self.refused(case["reason"], lambda: decode_statement(bytes.fromhex(case["statement"])))
        for case in file["refused_signatures"]:
            signature, statement = bytes.fromhex(case["signature"]), bytes.fromhex(case["statement"])
            self.same(case["reason"], verify_producer(self.producer, signature, statement), False)

    def log(self, file: Dict[str, Any]) -> None:
        h, vkey = bytes.fromhex, parse_vkey(file["vkey"])
        state, entries = Audit(vkey), []
        for case in file["entries"]:
            what = f"entry {case['index']}"
            entry = self.valid(what, lambda: state.feed(h(case["entry"])))
            if entry is None:
                break
            entries.append(entry)
            self.same(what, (entry.leaf.hex(), entry.recorded_at_us), (case["leaf_hash"], case["recorded_at_us"]))
            if entry.commitment:
                said = entry.commitment
                self.same(what, {"map_root": said.map_root.hex(), "map_size": said.map_size}, case["commitment"])
                continue
            r, expected = entry.record, case["record"]
            self.same(what, (r.statement.hex(), r.principal, r.rule, r.detail, r.producer is not None),
                      (*(expected[k] for k in ("statement", "principal", "rule", "detail", "signed_by_producer")),))
            for key, subject, other in zip(entry.subjects, r.subjects, expected["subjects"]):
                effective = state.histories[key].effective
                leaf = history_leaf(entry.index, entry.leaf, effective).hex()
                self.same(f"{what}: subject {subject.kind}", (key.hex(), subject.version, subject.name, effective, leaf),
                          tuple(other[k] for k in ("key", "version", "name", "effective", "history_leaf")))
            self.same(f"{what}: subjects", len(r.subjects), len(expected["subjects"]))
            if r.producer:
                self.same(f"{what}: key id", r.producer.key_id, producer_key_id(self.producer))
                self.same(f"{what}: producer", verify_producer(self.producer, r.producer.signature, r.statement), True)
        leaves = sorted((key, history.tree.size, history.tree.root()) for key, history in state.histories.items())
        self.same("map", [{"key": k.hex(), "count": n, "root": root.hex(), "leaf_hash": map_leaf(k, n, root).hex()}
                          for k, n, root in leaves], file["map"])
        checkpoint = self.valid("checkpoint", lambda: open_checkpoint(file["checkpoint"]["note"], vkey))
        self.same("checkpoint", checkpoint, (file["checkpoint"]["size"], h(file["checkpoint"]["root"])))
        self.valid("audit", lambda: state.end(checkpoint))
        self.same("cosigned", self.valid("cosigned", lambda: open_checkpoint(file["cosigned"], vkey)), checkpoint)
        earlier = self.valid("earlier", lambda: open_checkpoint(file["earlier"]["note"], vkey))
        self.same("earlier", earlier.size, file["earlier"]["size"])
        self.valid("consistency", lambda: verify_consistency(earlier.size, checkpoint.size, earlier.root, checkpoint.root,
                                                             [*map(h, file["earlier"]["consistency"])]))
        for entry, path in zip(entries, file["inclusion"]):
            self.valid(f"inclusion {entry.index}", lambda: verify_inclusion(entry.index, checkpoint.size, entry.leaf,
                                                                            [*map(h, path)], checkpoint.root))
        shown = [(n, entries[n].leaf) for n in file["evidence"]["indexes"]]
        proof = [*map(h, file["evidence"]["proof"])]
        self.valid("evidence", lambda: verify_multi(shown, checkpoint.size, proof, checkpoint.root))
        self.same("bundle", split_bundle(h(file["bundle"]), len(entries)), [entry.data for entry in entries])
        for case in file["refused_entries"]:
            self.refused(case["reason"], lambda: decode_entry(h(case["entry"]), vkey))
        for case in file["refused_checkpoints"]:
            self.refused(case["reason"], lambda: open_checkpoint(case["note"], vkey))

    def tiles(self, file: Dict[str, Any]) -> None:
        for case in file["valid"]:
            tile = self.valid(case["path"], lambda: parse_tile(case["path"]))
            self.same(case["path"], tile, (case["level"], case["index"], case["width"]))
        for case in file["refused"]:
            self.refused(f"{case['path']}: {case['reason']}", lambda: parse_tile(case["path"]))
        for case in file["covered_from_size"]:
            self.same(case["path"], parse_tile(case["path"]).covered_from(), case["size"])

    def evidence(self, file: Dict[str, Any]) -> None:
        vkey = parse_vkey(file["vkey"])
        for case in file["cases"]:
            if case["valid"]:
                summary = self.valid(case["name"], lambda: check_evidence_file(case["file"], vkey))
                if summary is not None:
                    self.same(case["name"], summary, case["summary"])
            else:
                self.refused(f"{case['name']}: {case['why']}", lambda: check_evidence_file(case["file"], vkey))
        for case in file.get("against", []):
            found = self.valid(case["name"], lambda: (against(case["files"], vkey),))
            if found is not None:
                self.same(f"{case['name']}: {found[0]}", found[0] is not None, case["contradiction"])

    def replay(self, file: Dict[str, Any]) -> None:
        for case in file["cases"]:
            vkey = parse_vkey(case["vkey"])
            entries = [base64.b64decode(entry) for entry in case["entries"]]
            if case["valid"]:
                state = self.valid(case["name"], lambda: audit(entries, case["checkpoint"], vkey))
                if state is not None:
                    last = state.last_commitment.commitment
                    self.same(case["name"], (last.map_root.hex(), last.map_size), (case["map_root"], case["map_size"]))
                continue
            try:
                audit(entries, case["checkpoint"], vkey)
            except Refused as refused:
                self.same(f"{case['name']} ({case['why']}): refused ({refused})", refused.index, case["index"])
            else:
                self.refused(f"{case['name']}: {case['why']}", lambda: None)


# ---------------------------------------------------------------------------------------------------------------------
# Commands

FINE, OPERATIONAL, USAGE, REFUSED_EXIT = 0, 1, 2, 3


def read_text(path: str) -> str:
    with open(path, "rb") as file:
        return utf8(file.read())


def check_files(args: argparse.Namespace, check: Callable[[str, VKey], Dict[str, Any]]) -> int:
    code = FINE
    for path in args.files:
        try:
            summary = check(read_text(path), args.vkey)
            print(f"{path}: ok {json.dumps(summary, ensure_ascii=False)}")
        except Refused as refused:
            print(f"{path}: refused: {refused}")
            code = REFUSED_EXIT
    return code


def run_evidence(args: argparse.Namespace) -> int:
    return check_files(args, lambda text, vkey: Answer(read_evidence_file(text), vkey).derive())


def run_tlog_proof(args: argparse.Namespace) -> int:
    return check_files(args, check_tlog_proof)


def run_against(args: argparse.Namespace) -> int:
    contradiction = against([read_text(path) for path in args.files], args.vkey)
    print(f"contradiction: {contradiction}" if contradiction else "no contradiction")
    return REFUSED_EXIT if contradiction else FINE


def run_replay(args: argparse.Namespace) -> int:
    note = utf8(fetch(args.source, "/checkpoint"))
    try:
        lines = note.split("\n")
        require(len(lines) > 1, "checkpoint: not three lines")
        # Whose the checkpoint must be, its own log tells.
        state = audit(read_entries(args.source, decimal(lines[1], "checkpoint: size")), note, args.vkey)
    except Refused as refused:
        print(f"refused: {refused}" if refused.index is None else f"refused: entry {refused.index}: {refused}")
        return REFUSED_EXIT
    print(f"ok {state.tree.size} entries, {state.commitments} commitments, {state.map.size} subjects, "
          f"map root {state.last_commitment.commitment.map_root.hex()}, root {state.tree.root().hex()}")
    return FINE


def run_vectors(args: argparse.Namespace) -> int:
    return FINE if Vectors(args.directory).run() else REFUSED_EXIT


def main(arguments: Optional[Sequence[str]] = None) -> int:
    def vkey(text: str) -> VKey:
        try:
            return parse_vkey(text)
        except Refused as refused:
            raise argparse.ArgumentTypeError(str(refused)) from None

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="exit codes: 0 fine, 1 operational (something cannot be read), 2 usage, 3 refused")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[..., int], about: str, pinned: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        if pinned:
            sub.add_argument("--vkey", type=vkey, required=True, help="the ledger's verifier key, which you know from elsewhere")
        return sub

    evidence = command("evidence", run_evidence, "check evidence files and print what they answer, as JSON")
    evidence.add_argument("files", nargs="+", metavar="FILE")
    proof = command("tlog-proof", run_tlog_proof, "check C2SP tlog-proof files of one entry each")
    proof.add_argument("files", nargs="+", metavar="FILE")
    pair = command("against", run_against, "look for a contradiction between two files: evidence or tlog-proof")
    pair.add_argument("files", nargs=2, metavar="FILE")
    replay = command("replay", run_replay, "read a whole log, and audit every entry")
    replay.add_argument("source", metavar="SOURCE",
                        help="a directory with checkpoint and tile/entries/..., or an http:// address")
    vectors = command("vectors", run_vectors, "run the project's test vectors", pinned=False)
    vectors.add_argument("directory", metavar="DIR")

    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except Refused as refused:
        print(f"refused: {refused}")
        return REFUSED_EXIT
    except (OSError, KeyError, http.client.HTTPException) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return OPERATIONAL


if __name__ == "__main__":
    sys.exit(main())
