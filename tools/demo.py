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

    def __init__(self, program: pathlib.Path, server: str, folder: pathlib.Path, token_file: pathlib.Path):
        self.program = program
        self.token_file = token_file
        # A pin and a cache of its own: those of whoever runs the demo are none of its business.
        self.environment = {
            **os.environ,
            "TAGLEDGER_SERVER": server,
            "TAGLEDGER_TRUST": str(folder / "trust"),
            "TAGLEDGER_TOKEN_FILE": str(token_file),
            "NO_COLOR": "1",
        }

    def call(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> tuple[int, str]:
        command = [str(self.program), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=self.environment
        )
        if done.returncode not in expect:
            words = " ".join(["tagledger", *arguments])
            raise Wrong(f"`{words}` ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.returncode, done.stdout

    def json(self, *arguments: str, expect: tuple[int, ...] = (0,)):
        return json.loads(self.call(*arguments, "--json", expect=expect)[1])


# --- the story ---------------------------------------------------------------------------------------------------------


class Moment:
    """A past time, and what was true then."""

    def __init__(self, label: str, tags: dict, running: dict):
        self.label = label
        self.time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self.tags = dict(tags)
        self.running = dict(running)


class Demo:
    def __init__(self, options: argparse.Namespace, folder: pathlib.Path, processes: Processes):
        self.options = options
        self.folder = folder
        self.processes = processes
        self.registry = f"127.0.0.1:{free_port()}"
        self.server = f"127.0.0.1:{free_port()}"
        self.app = f"{self.registry}/shop/web"
        self.locked = f"{self.registry}/locked/api"
        self.cli = Cli(options.programs / "tagledger", f"http://{self.server}", folder, folder / "ledger" / "token")
        # What the ledger ought to know, kept here by hand.
        self.tags = {}
        self.running = {}
        self.moments = []
        self.saved = []

    def tell(self) -> None:
        self.make_images()
        self.start()
        self.remember("before anything happened")
        self.push_and_overwrite()
        self.deploy_and_promote()
        self.delete()
        self.break_the_rule()
        self.ask_about_the_past()
        self.read_the_histories()
        self.verify_offline()

    # The set-up

    def make_images(self) -> None:
        chapter("Two images, made here, so that their digests are known")
        self.digests = {}
        for name in ("A", "B"):
            self.digests[name] = make_image(self.folder / f"image-{name}", name)
            note(f"image {name} is {self.digests[name]}")

    def start(self) -> None:
        chapter("A ledger, and a registry that announces to it what happens")
        secret = hashlib.sha256(os.urandom(32)).hexdigest()
        write_secret(self.folder / "secret", secret)
        (self.folder / "ledger.toml").write_text(
            f'immutable = ["{self.registry}/locked/**:v*"]\n\n'
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
        data = str(self.folder / "ledger")
        daemon = [str(self.options.programs / "tagledgerd"), "serve", "--data-dir", data, "--listen", self.server]
        self.processes.start("tagledgerd", [*daemon, "--config", str(self.folder / "ledger.toml")])
        self.wait_for_start("tagledgerd", f"http://{self.server}/readyz")
        self.processes.start("registry", [str(self.options.registry), "serve", str(self.folder / "registry.yml")])
        self.wait_for_start("registry", f"http://{self.registry}/v2/")
        note(f"the ledger serves on {self.server}; its verifier key: {(self.folder / 'ledger/ledger.vkey').read_text().strip()}")
        note(f"the registry serves on {self.registry}; tags {self.registry}/locked/**:v* are immutable by the ledger's rule")

    def wait_for_start(self, name: str, url: str) -> None:
        def started():
            if self.processes.has_ended(name):
                raise Wrong(f"{name} does not start:\n{self.processes.log(name)}")
            return answers(url)

        wait_until(started, f"{name} answers {url}")

    # What happens in the world

    def push_and_overwrite(self) -> None:
        chapter("An image is pushed as v1, and again, and then v1 is overwritten")
        web = f"{self.app}:v1"
        self.push("A", web)
        self.expect_newest(web, "APPLIED", "A")
        self.remember("after image A was pushed as v1")
        self.push("A", web)
        self.expect_newest(web, "UNCHANGED", "A")
        self.remember("after the same digest was pushed again")
        self.deploy("web", web, "A")
        self.remember("after v1 was deployed to prod")
        self.push("B", web)
        self.expect_newest(web, "APPLIED", "B")
        self.remember("after v1 was overwritten with image B")

    def deploy_and_promote(self) -> None:
        chapter("v1 is promoted to prod, and deployed")
        prod = f"{self.app}:prod"
        self.copy(f"docker://{self.app}:v1", prod)
        self.tags[prod] = "B"
        note(f"skopeo copied v1 to prod: {self.short('B')}")
        self.expect_newest(prod, "APPLIED", "B")
        self.remember("after v1 was promoted to prod")
        self.deploy("web", prod, "B")
        self.remember("after prod was deployed")

    def delete(self) -> None:
        chapter("Image B is deleted by its digest, which takes v1 and prod with it")
        url = f"http://{self.registry}/v2/shop/web/manifests/{self.digests['B']}"
        status = urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).status
        note(f"DELETE {url.split('/v2/')[1][:40]}... was answered with {status}")
        for tag in ("v1", "prod"):
            self.tags[f"{self.app}:{tag}"] = None
            self.expect_newest(f"{self.app}:{tag}", "APPLIED", None)
        self.remember("after image B was deleted by digest")

    def break_the_rule(self) -> None:
        chapter("An immutable tag is overwritten in the registry, which knows nothing of the rule")
        locked = f"{self.locked}:v1"
        self.push("A", locked)
        self.expect_newest(locked, "APPLIED", "A")
        self.remember("after the immutable tag was pushed")
        self.push("B", locked)
        self.expect_newest(locked, "VIOLATION", "B")
        self.remember("after the immutable tag was overwritten")
        note("asked beforehand, the ledger refuses:")
