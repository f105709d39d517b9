"""The records that a model is evaluated on: a split of any data, or of a run's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etils import epath

from r1vl_jax.checkpoint.hf.export import load_settings
from r1vl_jax.config import Data
from r1vl_jax.data.fingerprint import combined_fingerprint
from r1vl_jax.data.records import Split
from r1vl_jax.data.sources.prepare import Prepared
from r1vl_jax.training.sources import open_held_out, prepare_sources


@dataclass(frozen=True)
class DataSource:
    """Where the records are.

    Attributes:
        settings: `source`, with its mixtures and names on the hub, and how its files become records.
        split: of the data; "" is "test", or else the only one.
        limit: the first so many records; 0 for all.
    """

    settings: Data
    split: str = ""
    limit: int = 0

    def open(self, cache: Path) -> tuple[Split, dict[str, Any]]:
        """The split, and what is known of it; files of other formats are prepared in `cache`, or `settings.directory`.

        Raises:
            FileNotFoundError, ValueError: there are no such data, or no such split; says why.
        """
        cache = Path(self.settings.directory or cache)
        is_embedded = self.settings.source == "digits"
        prepared = [Prepared(cache, ())] if is_embedded else prepare_sources(self.settings, cache)
        directories = [each.directory for each in prepared]
        split, name, notes = open_held_out(directories, self.split)
        notes = [*(line for each in prepared for line in each.summary), *notes]
        return split, {"split": name, "sha256": combined_fingerprint(directories), "notes": notes}


def data_of(run: str) -> Data:
    """The data settings of a run, with the directory that its prepared data are in.

    Raises:
        FileNotFoundError, ValueError: no run is given, or there is none.
    """
    if not run:
        raise ValueError("--data: expected a file or directory of records")
    settings = load_settings(epath.Path(run)).data
    return replace(settings, directory=settings.directory or str(Path(run) / "data"))
