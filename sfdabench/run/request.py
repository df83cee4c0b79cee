"""The flags of a run as one value, which also comes from a record and becomes a command line.

The fields of `RunRequest` are the one table of these flags: name, type, default, spelling and help.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_type_hints

from sfdabench.core.errors import BadInput
from sfdabench.store import labels

if TYPE_CHECKING:
    from sfdabench.core.progress import Progress
    from sfdabench.run.plan import Run
    from sfdabench.store.records import Record


@dataclass(frozen=True)
class Flag:
    """How the command line spells a field of `RunRequest`. metavar: what its value is called."""

    name: str
    help: str
    metavar: str | None = None


@dataclass(frozen=True)
class RunRequest:
    """What the user asks of one run, before anything is looked up.

    A field that is a tuple is a flag that may be repeated. `method` and `task` must be given; they
    are empty only in a request that serves as the base of several runs. Raises BadInput where the
    phantom is asked for and a folder of real data is given.
    """

    method: Annotated[str, Flag("--method", "NAME, or NAME+NAME for a chain.")] = ""
    task: Annotated[str, Flag("--task", "A name from `sfdabench list tasks`.")] = ""
    seed: Annotated[int, Flag("--seed", "Seed of all that is random.")] = 0
    data: Annotated[Path | None, Flag("--data", "Folder of real data (or SFDABENCH_DATA).")] = None
    phantom: Annotated[
        bool, Flag("--phantom", "Run on the phantom although SFDABENCH_DATA is set.")
    ] = False
    out: Annotated[Path, Flag("--out", "Folder of the records.")] = Path("results")
    profile: Annotated[
        str | None,
        Flag("--profile", "paper (default on real data) or phantom (default without data)."),
    ] = None
    settings: Annotated[
        tuple[str, ...], Flag("--set", "Field of a method; repeatable.", "FIELD=VALUE")
    ] = ()
    source_settings: Annotated[
        tuple[str, ...],
        Flag(
            "--source-set",
            "Field of the source recipe or its network, such as size=128 or epochs=30.",
            "FIELD=VALUE",
        ),
    ] = ()
    source: Annotated[
        str | None,
        Flag("--source", "Source model to start from, of `sfdabench source list`.", "NAME|KEY"),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Flag("--device", "Where to compute; auto is CUDA where there is one."),
    ] = "auto"
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Flag(
            "--precision",
            "Of the network while adapting and predicting; the source is trained in float32.",
        ),
    ] = "float32"
    verify_data: Annotated[
        bool,
        Flag("--verify-data", "Hash every data file again, also those that look unchanged."),
    ] = False
    protocols: Annotated[
        tuple[str, ...],
        Flag("--protocol", "Score by this protocol as well as by the task's own.", "NAME"),
    ] = ()

    def __post_init__(self) -> None:
        if self.phantom and self.data is not None:
            raise BadInput(
                f"--data {self.data}: --phantom reads no real data; leave one of them out"
            )

    def resolve(self, progress: Progress | None = None, *, source_data: bool = True) -> Run:
        """Return the run that these flags ask for. Raises BadInput as `plan.resolve` does."""
        from sfdabench.run.plan import resolve

        return resolve(**vars(self), progress=progress, source_data=source_data)

    def as_resolved(self, run: Run) -> RunRequest:
        """Return this request with what was decided for `run`, so that a worker decides nothing.

        That is its seed, its profile, its device, its protocols, whether it is on the phantom, and
        that its files are what their hashes say.
        """
        return dataclasses.replace(
            self,
            seed=run.seed,
            phantom=run.data == "phantom",
            out=run.out,
            profile=run.profile,
            device=run.device,  # type: ignore[arg-type]  # plan.choose_device gives cpu or cuda
            protocols=run.protocol_names,
            verify_data=False,
        )

    def argv(self) -> tuple[str, ...]:
        """Return the words of the command line that makes this request; paths are absolute.

        Plug-ins are no part of it: a worker gets them in SFDABENCH_PLUGINS.
        """
        from sfdabench.core.paths import data_root

        root = None if self.phantom else data_root(self.data)
        absolute = {"out": self.out.resolve(), "data": root}
        words: list[str] = []
        for field, flag in FLAGS.items():
            value = absolute.get(field, getattr(self, field))
            if isinstance(value, bool):
                words += [flag.name] * value
            elif isinstance(value, tuple):
                words += [word for text in value for word in (flag.name, text)]
            elif value is not None:
                words += [flag.name, str(value)]
        return tuple(words)

    @classmethod
    def from_record(cls, path: Path, record: Record, data: Path | None, device: str) -> Self:
        """Return the request that made the record at `path`, to be carried out on `device`.

        Raises BadInput where `data` is given for a record of the phantom, or is nowhere to be
        found for a record of real data.
        """
        from sfdabench.core.paths import data_root

        phantom = record.data == "phantom"
        if phantom and data is not None:
            raise BadInput(f"--data {data}: record {path} is of the phantom; leave --data out")
        if not phantom and data_root(data) is None:
            raise BadInput(f"--record {path}: made from real data; give --data DIR")
        return cls(
            method=record.method,
            task=record.task,
            seed=record.seed,
            data=data,
            phantom=phantom,
            out=path.parent.parent.parent,
            profile=record.profile,
            settings=labels.settings(record.overrides),
            source_settings=labels.pairs(_source_settings(record)),
            source=record.imported,
            device=device,  # type: ignore[arg-type]
            precision=record.precision,
            protocols=tuple(record.scores),
        )


def _source_settings(record: Record) -> dict[str, Any]:
    """What the record's user set of the source; of an imported model, what it is."""
    if record.imported is None:
        return record.source_overrides
    recipe = record.recipe
    fields: Any = recipe["network_fields"]
    return {"size": recipe["size"], "network": recipe["network"], **fields}


TYPES = get_type_hints(RunRequest, include_extras=True)  # field -> Annotated[type, Flag]
FLAGS: dict[str, Flag] = {field: hint.__metadata__[0] for field, hint in TYPES.items()}
