#!/usr/bin/env python3
"""Writes the corpus: for each target a few small inputs, from the vectors and payloads of the tests.

Run again after the vectors have changed; what was found by fuzzing (found-*) stays.
"""

import base64
import json
import pathlib

root = pathlib.Path(__file__).resolve().parents[2]
vectors = root / "tests" / "vectors"
corpus = root / "tools" / "fuzz" / "corpus"


def load(name):
    return json.loads((vectors / f"{name}.json").read_text())


def write(target, seeds):
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if not old.name.startswith("found-"):
            old.unlink()
    for number, seed in enumerate(seeds):
        (folder / f"{number:02}").write_bytes(seed.encode() if isinstance(seed, str) else seed)


def smallest(texts, count, limit=6000):
    return sorted({text for text in texts if len(text) <= limit}, key=lambda text: (len(text), text))[:count]


log, statements, evidence, policy, tiles, keys, succession = map(load, ["log", "statements", "evidence", "policy", "tiles", "keys", "succession"])
entries = [bytes.fromhex(entry["entry"]) for entry in log["entries"]]
valid = [case["file"] for case in evidence["cases"] if case["valid"]]
policies = [case["text"] for case in policy["policies"]]

write("entry", entries + [bytes.fromhex(case["entry"]) for case in log["refused_entries"][:4]])
changes = succession["statements"]["valid"] + [case["statement"] for case in succession["statements"]["refused"][:2]]
write("statement", [bytes.fromhex(text) for text in [case["statement"] for case in statements["valid"]] + changes])
write("evidence", smallest([file for file in valid if file.startswith("{")], 6))
write("tlog_proof", smallest([file for file in valid if file.startswith("c2sp")], 4))
write("succession", [bytes([n, n * 31, 0, 3 * n, 1]) for n in range(8)])
write("tampering", [bytes([n * 17, 0, n * 31, 0, 3 * n, 1]) for n in range(8)])
notes = [log["checkpoint"]["note"], log["cosigned"], log["earlier"]["note"]]
write("note", notes + [keys["ledger"]["vkey"], keys["ledger"]["skey"]])
bodies = ["ledger.example/vectors\n{}\n{}\n".format(size, base64.b64encode(bytes(32)).decode()) for size in (0, 42)]
write("checkpoint", notes[:1] + bodies)
rich = [text for text in policies if any(sign in text for sign in ("(?", "[:", "\\Q", "\\x"))]
write("policy", smallest([text for text in policies if text], 8) + smallest(rich, 8))
write("tile", [case["path"].removeprefix("/tile/") for case in tiles["valid"]] + [bytes.fromhex(log["bundle"])[:1500]])
write("webhook", [file.read_bytes() for file in sorted((root / "tests/payloads/distribution").glob("*.json"))[:6]])

digest = "sha256:" + "0123456789abcdef" * 4
write("names", [
    "registry.example:5000/team/app:v1", "docker.io/library/nginx:1.27", "[2001:db8::1]:5000/a:b", digest,
    "sha512:" + "ab" * 64, "localhost/x", "v1.0_-", "registry.example/a__b-c.d/e---f:" + "t" * 128,
])
write("gateway_request", [
    "PUT /v2/team/app/manifests/v1?tag=v1.0&tag=latest", f"DELETE /v2/team/app/manifests/{digest}", "GET /v2/",
    "GET /v2/_catalog", "GET /v2/team/app/tags/list", f"HEAD /v2/team/app/blobs/{digest}",
    "POST /v2/team/app/blobs/uploads/", "PATCH /v2/team/app/blobs/uploads/9b4e-_.=~:", f"GET /v2/a/referrers/{digest}",
    "GET /v2/manifests/manifests/manifests",
])
one = base64.b64encode(bytes.fromhex(statements["valid"][0]["statement"])).decode()
write("journal", [f"open a {one}\nopen b {one}\ndone a\n", "open c dGh\nopen", "done x\n"])

pushed = bytes.fromhex(statements["valid"][0]["statement"])


def field(number, payload):
    return bytes([number << 3 | 2]) + varint(len(payload)) + payload


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


submission = field(1, pushed)
messages = {0: field(1, submission), 2: field(1, submission) * 2, 4: field(1, submission), 46: pushed}
write("messages", [bytes([which]) + message for which, message in messages.items()] + [bytes([which]) + b"\x0a\x01a\x10\x07" for which in range(48)])

write("registry", [
    b'\x00{"name":"team/app","tags":["v1","latest"]}', b'\x00{"repositories":["a/b","c"]}', b'\x00{"tags":null}',
    b'\x01</v2/a/tags/list?last=b&n=5>; rel="next"', b"\x01</x>; rel=prev, <?a=1,2>; rel=next", b"\x01<//evil.example/>;rel=next",
    b'\x02Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull"',
    b'\x02bearer realm=https://a/t, service="x \\"y\\""', b'\x02Basic realm="x"',
    b'\x03{"token":"abc","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}', b'\x03{"access_token":"abc"}',
])
write("deadline", ["100m", "99999999H", "1S", "20u", "5M", "7n", "123456789S"])
round_begun = {
    "registry": "registry.example", "started_us": 7, "finished_us": 0, "dry_run": False, "repositories": 1, "tags": 1, "agreed": 0,
    "findings": [], "findings_left_out": 0, "failures": [],
}
seen = {"digest": digest, "before_us": 0, "since_us": 1, "seen_us": 2, "version": 3, "other": {"digest": None, "since_us": 4}}
known = {"team/app": {"listed_us": 1, "done_us": 2, "tags": {"v1": seen}}}
write("scanner_state", [
    json.dumps({"format": 1, "registry": "registry.example", "round": begun, "repositories": repositories}, separators=(",", ":"))
    for begun, repositories in [(None, {}), (None, known), (round_begun, known)]
])

source = (root / "src/ledger/policy/import/tests.rs").read_text() if (root / "src/ledger/policy/import/tests.rs").exists() else ""
exports = []
for piece in source.split('r#"')[1:]:
    text = piece.split('"#')[0]
    if text.lstrip()[:1] in "[{":
        exports.append(text)
exports = exports or ["{}", "[]"]
write("policy_import", [bytes([which]) + text.encode() for text in smallest(exports, 5) for which in range(8)])

settings = [
    'listen = "127.0.0.1:7420"\nidle_commitment_seconds = 600\nreads = "reader"\n[limits]\nmemory_mib = 256\n[limits.principals.ci]\nper_second = 100\n'
    '[webhooks.main]\nregistry = "127.0.0.1:5000"\nsecret_file = "s"\n[clock]\nalarm_behind_seconds = 10\n',
    'upstream = "http://127.0.0.1:5000"\nregistry = "registry.example"\nwhen_ledger_unreachable = "protect"\nhost = "client"\npass = ["/token"]\n',
    'registry_url = "http://127.0.0.1:5000"\nregistry = "registry.example"\nevery = "10m"\nrate = 20.0\n',
]
write("configuration", settings)

# The seed of audit_state is written by tests/hostile_bytes.rs: TAGLEDGER_WRITE_VECTORS=1 cargo test --test hostile_bytes

for folder in sorted(corpus.iterdir()):
    files = list(folder.iterdir())
    print(f"{folder.name}: {len(files)} files, {sum(file.stat().st_size for file in files)} bytes")
