"""What tools/demo tells: the story itself. See there.

Nothing is taken on trust: the digests are computed here, from images made here, and every answer of the ledger is compared
with them. Whatever takes time is waited for by asking, with a bound.
"""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

PATIENCE_S = 30


class Wrong(Exception):
    """The ledger answered something else than what is right."""


# --- images ------------------------------------------------------------------------------------------------------------


def make_image(directory: pathlib.Path, name: str) -> str:
    """Makes an OCI layout with one image of one layer, byte for byte the same each time; returns its digest."""
    text = f"I am image {name}.\n".encode()
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        member = tarfile.TarInfo("hello.txt")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    packed = gzip.compress(layer.getvalue(), mtime=0)

    def blob(content: bytes, media_type: str) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        path = directory / "blobs" / "sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def as_json(value: dict) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(as_json(config), "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    described = blob(as_json(manifest), manifest["mediaType"])
    (directory / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))
    (directory / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": [described]}))
    return described["digest"]


# --- processes ---------------------------------------------------------------------------------------------------------


class Processes:
    """What was started here, to be ended here, by process id."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, command: list[str], **environment: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        self.running[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )

    def has_ended(self, name: str) -> bool:
        return self.running[name].poll() is not None

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def end(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end_all(self) -> None:
        for name in list(self.running):
            self.end(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what: str):
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Wrong(f"waited {PATIENCE_S} s in vain until {what}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


# --- the ledger's command line -----------------------------------------------------------------------------------------


class Cli:
    """`tagledger`, as a person would call it."""

    def __init__(self, program: pathlib.Path, server: str, trust: pathlib.Path):
        self.program = program
        # A pin and a memory of its own: those of whoever runs the demo are none of its business.
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("TAGLEDGER_")}
        self.environment |= {"TAGLEDGER_SERVER": server, "TAGLEDGER_TRUST": str(trust)}

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [str(self.program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )
        if done.returncode != expect:
            words = " ".join(["tagledger", *arguments])
            raise Wrong(f"`{words}` exited {done.returncode}, not {expect}:\n{done.stdout}{done.stderr}")
        return done.stdout


# --- the story ---------------------------------------------------------------------------------------------------------


class Moment:
    """A past time, and what was true then."""

    def __init__(self, label: str, tags: dict, running: dict):
        self.label = label
        self.time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")
        self.tags = dict(tags)
        self.running = dict(running)


class Demo:
    def __init__(self, options: argparse.Namespace, folder: pathlib.Path, processes: Processes):
        self.options = options
        self.folder = folder
        self.processes = processes
        self.registry = f"127.0.0.1:{free_port()}"
        self.server = f"127.0.0.1:{free_port()}"
        self.web = f"{self.registry}/shop/web"
        self.locked = f"{self.registry}/locked/api"
        self.cli = Cli(options.programs / "tagledger", f"http://{self.server}", folder / "trust")
        self.digests = {}
        # What is true in the world, kept by hand: what the ledger must know. None: not bound, not running.
        self.tags = {f"{self.web}:v1": None, f"{self.web}:prod": None}
        self.running = {"web": None}
        # How many entries of each tag's history have been looked at.
        self.counts = {}
        self.moments = []
        self.saved = []

    def tell(self) -> None:
        self.make_images()
        self.start()
        self.push_and_overwrite()
        self.promote()
        self.delete()
        self.break_the_rule()
        self.ask_about_the_past()
        self.read_histories()
        self.verify_offline()

    # What happens in the world.

    def make_images(self) -> None:
        chapter("Two images, made here, so that their digests are known")
        for name in ("A", "B"):
            self.digests[name] = make_image(self.folder / f"image-{name}", name)
            note(f"image {name} is {self.digests[name]}")

    def start(self) -> None:
        chapter("A ledger, and a registry that announces to it what happens")
        secret = os.urandom(32).hex()
        write_secret(self.folder / "secret", secret)
        (self.folder / "ledger.toml").write_text(
            "[webhooks.demo]\n"
            f'registry = "{self.registry}"\n'
            f'secret_file = "{self.folder}/secret"\n'
            f'confirm = "http://{self.registry}"\n'
        )
        write_secret(
            self.folder / "registry.yml",
            "version: 0.1\n"
            "log: {level: warn}\n"
            "storage:\n"
            f"  filesystem: {{rootdirectory: '{self.folder}/registry'}}\n"
            "  delete: {enabled: true}\n"
            f"http: {{addr: '{self.registry}'}}\n"
            "notifications:\n"
            "  events: {includereferences: true}\n"
            "  endpoints:\n"
            "    - name: ledger\n"
            f"      url: http://{self.server}/webhooks/distribution/demo\n"
            f"      headers: {{Authorization: ['Bearer {secret}']}}\n"
            "      timeout: 2s\n"
            "      threshold: 3\n"
            "      backoff: 1s\n"
            "      ignore: {mediatypes: [application/octet-stream], actions: [pull]}\n",
        )
        data = self.folder / "ledger"
        daemon = [str(self.options.programs / "tagledgerd"), "serve", "--data-dir", str(data), "--listen", self.server]
        self.start_process("tagledgerd", [*daemon, "--config", str(self.folder / "ledger.toml")], "/readyz", self.server)
        registry = [str(self.options.registry), "serve", str(self.folder / "registry.yml")]
        self.start_process("docker-registry", registry, "/v2/", self.registry)
        note(f"tagledgerd on {self.server}, with the key {(data / 'ledger.vkey').read_text().strip()}")
        (self.folder / "policy.toml").write_text(
            "[[rule]]\n"
            'id = "locked"\n'
            f'registries = ["{self.registry}"]\n'
            'repositories = ["locked/**"]\n'
            'tags = ["v*"]\n'
        )
        self.cli("policy", "set", str(self.folder / "policy.toml"), *self.token())
        note(f"docker-registry on {self.registry}; by the ledger's rule, {self.registry}/locked/**:v* may not move")
        self.remember("before anything happened")

    def start_process(self, name: str, command: list[str], path: str, address: str) -> None:
        def has_started():
            if self.processes.has_ended(name):
                raise Wrong(f"{name} does not start:\n{self.processes.log(name)}")
            return answers(f"http://{address}{path}")

        self.processes.start(name, command)
        wait_until(has_started, f"{name} answers {path}")

    def push_and_overwrite(self) -> None:
        v1 = f"{self.web}:v1"
        chapter("v1 is pushed, pushed again, deployed, and overwritten with another image")
        self.push("A", v1, "APPLIED")
        self.remember("v1 was pushed")
        self.push("A", v1, "UNCHANGED")
        self.remember("the same digest was pushed again")
        self.deploy("web", v1, "A")
        self.remember("v1 was deployed")
        self.push("B", v1, "APPLIED")
        self.remember("v1 was overwritten")

    def promote(self) -> None:
        prod = f"{self.web}:prod"
        chapter("v1 is promoted to prod, and that is deployed")
        skopeo_copy(f"docker://{self.web}:v1", f"docker://{prod}")
        self.expect_recorded(prod, "push", "APPLIED", "B")
        note("skopeo copied v1 to prod: the ledger has it as APPLIED")
        self.remember("v1 was promoted to prod")
        self.deploy("web", prod, "B")
        self.remember("prod was deployed")

    def delete(self) -> None:
        chapter("Image B is deleted by its digest, which takes v1 and prod with it")
        url = f"http://{self.registry}/v2/shop/web/manifests/{self.digests['B']}"
        status = urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).status
        for tag in ("v1", "prod"):
            # Announced twice: the digest, and each tag that pointed at it.
            self.expect_recorded(f"{self.web}:{tag}", "delete-digest", "APPLIED", None, claims=2)
        entries = self.history(f"{self.web}:v1") + self.history(f"{self.web}:prod")
        deletions = {entry["index"] for entry in entries if entry["verb"] == "delete-digest"}
        if len(deletions) != 1:
            raise Wrong(f"one deletion became the entries {deletions}")
        note(f"the registry answered {status}; in the ledger, entry {deletions.pop()} unbinds both tags")
        self.remember("image B was deleted")

    def break_the_rule(self) -> None:
        locked = f"{self.locked}:v1"
        chapter("A tag that may not move is moved in the registry, which knows nothing of the rule")
        self.tags[locked] = None
        self.push("A", locked, "APPLIED")
        self.remember("locked v1 was pushed")
        self.push("B", locked, "VIOLATION")
        self.remember("locked v1 was moved all the same")
        request = ["record", "push", locked, "--digest", self.digests["A"], "--requested", *self.token()]
        self.cli(*request, expect=1)
        self.expect_recorded(locked, "push", "DENIED", "B", is_looked_at=False)
        note("asked whether it may move back, the ledger says DENIED, and has recorded the attempt")
        self.remember("a request to move it was denied")

    # What is asked.

    def ask_about_the_past(self) -> None:
        chapter("What was v1, what was prod, and what ran in prod, at each of these times?")
        tags = {"v1": f"{self.web}:v1", "prod": f"{self.web}:prod", "locked v1": f"{self.locked}:v1"}
        note(f"{'at a time when':36}{'v1':6}{'prod':6}{'locked v1':11}running")
        for number, moment in enumerate(self.moments):
            found = []
            for column, tag in tags.items():
                file = self.folder / f"evidence-{number}-{column.replace(' ', '-')}.json"
                question = ["at", tag, "--time", moment.time]
                found.append(self.ask(question, file, moment.tags.get(tag), moment))
            file = self.folder / f"evidence-{number}-ran.json"
            question = ["ran", "--env", "prod", "--time", moment.time]
            found.append(self.ask(question, file, moment.running["web"], moment))
            v1, prod, locked, running = (name or "-" for name in found)
            note(f"{moment.label:36}{v1:6}{prod:6}{locked:11}{running}")

    def ask(self, question: list[str], file: pathlib.Path, expected: str | None, moment: Moment) -> str | None:
        """Asks, keeps the evidence, and returns the image's name once the answer is known to be right."""
        exit_code = 0 if expected else 4
        answer = json.loads(self.cli(*question, "--json", "--save", str(file), expect=exit_code))
        check_states(answer, self.digests.get(expected), f"{' '.join(question)} ({moment.label})")
        self.saved.append((file, self.digests.get(expected), exit_code))
        return expected

    def read_histories(self) -> None:
        chapter("Nothing is left out: every attempt is an entry")
        gone = ["delete-digest APPLIED", "delete UNCHANGED"]
        expected = {
            f"{self.web}:v1": ["push APPLIED", "push UNCHANGED", "start APPLIED", "push APPLIED", *gone],
            f"{self.web}:prod": ["push APPLIED", "start APPLIED", *gone],
            f"{self.locked}:v1": ["push APPLIED", "push VIOLATION", "push DENIED"],
        }
        for tag, outcomes in expected.items():
            entries = self.history(tag)
            told = [f"{entry['verb']} {entry['outcome']}" for entry in entries if entry["verb"] != "observe"]
            if told != outcomes:
                raise Wrong(f"the history of {tag} is {told}, not {outcomes}")
            looks = {(entry["assurance"], entry["outcome"]) for entry in entries if entry["verb"] == "observe"}
            if looks != {("CONFIRMED", "UNCHANGED")}:
                raise Wrong(f"the registry does not confirm what is recorded of {tag}: {looks}")
            note(f"{tag}: {', '.join(told)}")
        note("and each time the ledger looked into the registry, that confirmed what it had recorded. The last of them in full:")
        print(self.cli("history", f"{self.locked}:v1"))

    def verify_offline(self) -> None:
        chapter("Ledger and registry are stopped; what was saved is verified without them")
        self.processes.end_all()
        for file, digest, exit_code in self.saved:
            check_states(json.loads(self.cli("verify", str(file), "--json", expect=exit_code)), digest, file.name)
        note(f"{len(self.saved)} answers verified offline, each with the digest that is right")
        forged = self.forge(next(file for file, digest, _ in self.saved if digest == self.digests["A"]))
        self.cli("verify", str(forged), expect=3)
        note("an answer in which somebody unbound the tag, and repaired the checksum, is refused with exit code 3")

    def forge(self, file: pathlib.Path) -> pathlib.Path:
        """Says that nothing was bound after the entry that the answer rests on; the entries, which are signed, stay as they are."""
        evidence = json.loads(file.read_text())
        compact = {"separators": (",", ":"), "ensure_ascii": False}
        content = json.dumps(evidence["content"], **compact)
        if evidence["checksum"] != "sha256:" + hashlib.sha256(content.encode()).hexdigest():
            raise Wrong("the checksum of an evidence file is not that of its content")
        leaves = evidence["content"]["pages"][0]["subjects"][0]["terminal"]["history"]["leaves"]
        leaves[0]["effective"] = 0
        content = json.dumps(evidence["content"], **compact)
        evidence["checksum"] = "sha256:" + hashlib.sha256(content.encode()).hexdigest()
        forged = file.with_name("forged.json")
        forged.write_text(json.dumps(evidence))
        return forged

    # What the steps are made of.

    def push(self, image: str, tag: str, outcome: str) -> None:
        skopeo_copy(f"oci:{self.folder}/image-{image}", f"docker://{tag}")
        self.expect_recorded(tag, "push", outcome, image)
        note(f"skopeo pushed image {image} as {tag}: the ledger has it as {outcome}")

    def deploy(self, workload: str, tag: str, image: str) -> None:
        reference = f"{tag}@{self.digests[image]}"
        self.cli("record", "deploy", reference, "--env", "prod", "--workload", workload, *self.token())
        # The entry is in the tag's history too.
        self.counts[tag] = len(self.history(tag))
        self.running[workload] = image
        note(f"{workload} in prod now runs image {image}")

    def token(self) -> list[str]:
        return ["--token-file", str(self.folder / "ledger" / "token")]

    def history(self, tag: str) -> list[dict]:
        """The entries about a tag, oldest first."""
        try:
            answer = json.loads(self.cli("history", tag, "--json"))
        except Wrong:
            # Exit code 4: nothing yet.
            self.cli("history", tag, "--json", expect=4)
            return []
        by_index = {entry["index"]: entry for entry in answer["entries"]}
        return [by_index[version["index"]] for version in answer["answer"]["versions"]]

    def expect_recorded(
        self, tag: str, verb: str, outcome: str, image: str | None, claims: int = 1, is_looked_at: bool = True
    ) -> None:
        """Waits until as many claims are recorded, and what the ledger then saw in the registry; checks the first claim."""
        seen = self.counts.get(tag, 0)

        def is_recorded():
            entries = self.history(tag)
            fresh = entries[seen:]
            looks = [entry for entry in fresh if entry["verb"] == "observe"]
            is_complete = len(fresh) - len(looks) >= claims and (looks or not is_looked_at)
            return (len(entries), fresh[0]) if is_complete else None

        self.counts[tag], claim = wait_until(is_recorded, f"the ledger has recorded and confirmed a {verb} of {tag}")
        if (claim["outcome"], claim["verb"]) != (outcome, verb):
            raise Wrong(f"the ledger recorded of {tag} {claim['verb']}: {claim['outcome']}, not {verb}: {outcome}")
        self.tags[tag] = image

    def remember(self, label: str) -> None:
        self.moments.append(Moment(label, self.tags, self.running))


def check_states(answer: dict, digest: str | None, what: str) -> None:
    """An answer about one subject: it must be bound to this digest, or to nothing."""
    found = [state["digest"] for state in answer["answer"]["states"] if state["digest"]]
    if found != ([digest] if digest else []):
        raise Wrong(f"{what}: the ledger says {found}, and right is {digest}")


def skopeo_copy(source: str, target: str) -> None:
    options = ["--insecure-policy", "copy", "--quiet", "--preserve-digests"]
    insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run(["skopeo", *options, *insecure, source, target], stdin=subprocess.DEVNULL, check=True, timeout=60)


def write_secret(path: pathlib.Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def chapter(title: str) -> None:
    print(f"\n{title}", flush=True)


def note(text: str) -> None:
    print(f"  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="directory of tagledgerd and tagledger")
    parser.add_argument("--registry", type=pathlib.Path, required=True, help="the program docker-registry")
    parser.add_argument("--keep", action="store_true", help="leave the temporary directory")
    options = parser.parse_args()
    # Ended from outside, clean up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tagledger-demo-"))
    processes = Processes(folder)
    started = time.monotonic()
    try:
        Demo(options, folder, processes).tell()
        print(f"\nThe demo went right, in {time.monotonic() - started:.0f} s.")
        return 0
    except (Wrong, subprocess.SubprocessError, OSError, KeyError) as error:
        print(f"\nTHE DEMO WENT WRONG: {error}", file=sys.stderr)
        for log in sorted(folder.glob("*.log")):
            print(f"\nlast lines of {log.name}:\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
        return 1
    finally:
        processes.end_all()
        if options.keep:
            print(f"Logs and evidence are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
