"""A method that attacks the run that it is part of, from within."""

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from sfdabench.core.method import Method
from sfdabench.core.needs import Needs

# Where the test lets the attacks at import time know what they are after.
BAIT = Path(__file__).parent.parent / "bait.txt"
IN_REACH = BAIT.read_text().splitlines() if BAIT.exists() else []
HANDLES, LOOT = [], []


def steal(paths):
    """Return the content of what can be read of these files and folders."""
    loot = []
    for path in map(Path, paths):
        for file in [path, *(path.rglob("*") if path.is_dir() else ())]:
            try:
                loot.append(file.read_bytes())
            except OSError:
                continue
    return loot


def keep_trying():
    for _ in range(100):
        LOOT.extend(steal(IN_REACH))
        time.sleep(0.01)


for path in IN_REACH:
    try:
        HANDLES.append(open(path, "rb"))  # noqa: SIM115  # to be read when the method runs
    except OSError:
        continue
threading.Thread(target=keep_trying, daemon=True).start()


class Sly(float):
    """A number that steals when it is collected."""

    def __del__(self):
        LOOT.extend(steal(IN_REACH))


@dataclass(frozen=True)
class Hostile(Method):
    """It deploys the source model as it is, unless an attack gave it something better.

    attack: what it tries. target: files and folders that it wants, a line each.
    """

    attack: str = "none"
    target: str = ""

    @property
    def needs(self):
        """Asked before anything is confined, or so the attacker hopes."""
        LOOT.extend(steal(self.target.splitlines()))
        return Needs(
            source_stage="hostile_side" if self.attack == "stage" else None,
            online=self.attack.startswith("online"),
        )

    def adapt(self, context):
        """Return the source model; all its weights are zero where the attack succeeded."""
        import torch

        model = context.model()
        LOOT.extend(handle.read(9) for handle in HANDLES)
        if self.attack == "stage" and not any(map(torch.any, context.stage().parameters())):
            LOOT.append(b"what its stage could read")
        if self.attack.startswith("online"):
            return self.online(context, model)
        if self.attack == "epochs":
            for _ in context.epochs(3, deploy=model, state=torch.zeros(1)):
                with torch.no_grad():
                    next(model.parameters()).add_(1e-3)
                LOOT.extend(steal(self.target.splitlines()))
                LOOT.extend(steal(["../sealed", "../audit.json", ".."]) if self.sealed() else [])
        elif self.attack not in ("none", "stage"):
            getattr(self, self.attack)(context, model)
        time.sleep(0.1)
        if LOOT:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
        return model

    @staticmethod
    def sealed():
        """Whether the folder of the masks can be listed; its own files do not count."""
        try:
            return os.listdir("../sealed")
        except OSError:
            return []

    def read(self, context, model):
        """Read what is wanted."""
        LOOT.extend(steal(self.target.splitlines()))

    def overwrite(self, context, model):
        """Write over what is wanted."""
        for path in self.target.splitlines():
            try:
                Path(path).write_bytes(b"forged")
            except OSError:
                continue

    def collected(self, context, model):
        """Leave an object that steals when it is collected."""
        context.keeper = Sly(1.0)

    def patch_the_suite(self, context, model):
        """Replace what hashes, scores, predicts and writes records."""
        import sfdabench.evaluate.metrics as metrics
        import sfdabench.evaluate.scoring as scoring
        import sfdabench.models.weights as weights
        import sfdabench.run.making as making
        import sfdabench.store.records as records

        honest = making.to_bytes
        making.to_bytes = lambda state, _: honest(state, {"sha256": "0" * 64})
        weights.sha256 = lambda state: "0" * 64
        for name in ("compare", "dice"):
            setattr(metrics, name, lambda *_, **__: 1.0)
        scoring.Scorer.__call__ = lambda *_, **__: None
        records.write = lambda path, record: None

    def other_weights(self, context, model):
        """Hand over weights that are not those that predict."""
        state = {name: value * 0 for name, value in model.state_dict().items()}
        model.weights = lambda: state
        model.state_dict = lambda *_, **__: state

    def garbage_for_weights(self, context, model):
        """Leave what is no file of weights."""
        import sfdabench.run.making as making

        making.to_bytes = lambda *_: b"garbage"

    def link_for_weights(self, context, model):
        """Leave a link to what is wanted where the weights are expected."""
        import sfdabench.run.making as making

        wanted = self.target.splitlines()[0]

        class Link:
            """Stands for the file that is written."""

            def __init__(self, path, mode):
                self.path = path

            def __enter__(self):
                for make in (os.symlink, os.link):
                    try:
                        make(wanted, self.path)
                    except OSError:
                        continue
                return open(os.devnull, "wb")

            def __exit__(self, *_):
                return None

        making.atomic = Link

    def folder_for_weights(self, context, model):
        """Leave a folder where the weights are expected, and say that all is well."""
        os.mkdir("weights.safetensors")
        self.say(self.result())

    def result(self, **changes):
        """An honest result, but for some changes."""
        honest = {"composite": None, "curves": {}, "notes": {}, "threads": 1}
        return {"result": honest | {"memory_format": None, "peak_device_bytes": None} | changes}

    def say(self, *messages):
        """Send messages in the name of the suite, and end."""
        import gc

        from sfdabench.confine.channel import Channel

        (channel,) = (o for o in gc.get_objects() if isinstance(o, Channel))
        for message in messages:
            if isinstance(message, bytes):
                channel.outgoing.write(message)
                channel.outgoing.flush()
            else:
                channel.send(message)
        os._exit(0)

    def message(self, context, model):
        """Leave honest weights, send the messages that `target` holds, then an honest result."""
        from sfdabench.models.weights import to_bytes

        Path("weights.safetensors").write_bytes(to_bytes(model.weights()))
        self.say(*json.loads(self.target), self.result())

    def raw(self, context, model):
        """Send what is no message."""
        self.say(b"no message\n")

    def long(self, context, model):
        """Send more than one message may hold."""
        self.say(b"x" * (65 * 2**20))

    def many(self, context, model):
        """Send a hundred thousand messages that want no answer."""
        self.say(*[{"breach": "a"}] * 100_000)

    def silent_end(self, context, model):
        """End without a word."""
        os._exit(0)

    def online(self, context, model):
        """Learn nothing while predicting, and forge the file of masks."""
        import sfdabench.run.making as making
        from sfdabench.models.segmenter import OnlineSegmenter

        honest = making.seal

        def seal(path, cases):
            honest(path, self.masks(cases))

        if self.attack != "online":
            making.seal = seal
        return OnlineSegmenter(model, model, 8)

    def masks(self, cases):
        """The masks of the cases, with other shapes."""
        import numpy as np

        for case in cases:
            if self.attack == "online_large":
                yield {name: np.zeros((2, 3000, 3000), bool) for name in case}
            elif self.attack == "online_other_protocol":
                yield {f"{name}_forged": mask for name, mask in case.items()}
            elif self.attack == "online_one_class":
                yield {name: mask[:1] for name, mask in case.items()}
            else:
                return  # no case at all
